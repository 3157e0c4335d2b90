import ArgumentParser
import Foundation
import Testing

@testable import Control
@testable import tidemark

/// What people see.
struct RenderingTests {
    @Test(arguments: [
        ("0", 0), ("1", 1), ("512", 512), ("64K", 65536), ("64k", 65536), ("1M", 1 << 20),
        ("20G", 20 << 30), ("3T", 3 << 40), ("18446744073709551615", UInt64.max),
        ("16777215T", 16_777_215 << 40),
    ])
    func aSizeIsDigitsWithPerhapsAUnit(_ text: String, _ bytes: UInt64) {
        #expect(ByteSize(argument: text)?.bytes == bytes)
    }

    @Test(arguments: [
        "", "K", "-1", "+1", "1.5G", "1 G", "1KB", "1KiB", "0x10", "1P", "18446744073709551616",
        "16777216T", "1é", "٣", "²",
    ])
    func anythingElseIsNoSize(_ text: String) {
        #expect(ByteSize(argument: text) == nil)
    }

    @Test(arguments: [
        (0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (65536, "64 KiB"),
        (1_610_612_736, "1.5 GiB"), (1_048_575, "1 MiB"), (1_000_000_000, "953.7 MiB"),
        (UInt64.max, "16 EiB"),
    ])
    func bytesAreShownInTheLargestFittingUnit(_ bytes: UInt64, _ text: String) {
        #expect(ByteSize.text(bytes) == text)
    }

    @Test(arguments: [
        (0.003, "3 ms"), (0.8, "0.8 s"), (1, "1.0 s"), (42.4, "42 s"), (125, "2:05"),
        (3723, "1:02:03"), (.infinity, "?"), (-1, "?"),
    ])
    func timesAreShownWithFewDigits(_ seconds: Double, _ text: String) {
        #expect(TimeText.measured(seconds) == text)
    }

    @Test func tableColumnsLineUp() {
        var table = TextTable([.text("NAME"), .number("SIZE"), .text("PATH")])
        #expect(table.text == "")
        table.append(["a", "1 B", "/x"])
        table.append(["long-name", "1023 MiB", ""])
        table.append(["evil\u{1b}[2J\n", "1 B", "é"])
        #expect(
            table.text.components(separatedBy: "\n") == [
                "NAME           SIZE  PATH",
                "a               1 B  /x",
                "long-name  1023 MiB",
                "evil?[2J?       1 B  é",
            ])
    }

    @Test func progressShowsBytesRateAndTimeLeft() {
        var line = ProgressLine()
        var job = JobInfo(
            id: "j1", type: "backup", status: .running, currentProgress: 0,
            totalProgress: 1 << 30)
        #expect(line.text(job, at: 0) == "backup j1: 0 B of 1 GiB (0 %)")
        job.currentProgress = 256 << 20
        #expect(
            line.text(job, at: 2) == "backup j1: 256 MiB of 1 GiB (25 %), 128 MiB/s, 0:06 left")
        job.status = .aborting
        #expect(line.text(job, at: 2).contains(", aborting"))
        job.totalProgress = 0
        #expect(line.text(job, at: 3).contains("of 256 MiB (100 %)"))
    }

    @Test func aPathForTheAgentIsAbsoluteUnlessItIsAURI() {
        #expect(HostPath.absolute("a/b", from: "/w") == "/w/a/b")
        #expect(HostPath.absolute("./a", from: "/w/") == "/w/a")
        #expect(HostPath.absolute(".", from: "/w") == "/w")
        #expect(HostPath.absolute("./rbd:x", from: "/w") == "/w/rbd:x")
        for text in ["/a", "rbd:pool/image", "nbd+unix:///x?socket=y", ""] {
            #expect(HostPath.absolute(text, from: "/w") == text)
        }
    }

    @Test func anEventIsOneLine() {
        let event = QMPEvent(
            name: "JOB_STATUS_CHANGE", data: ["id": "j", "status": "running"],
            seconds: 1_763_700_000, microseconds: 250_000)
        #expect(
            EventsCommand.line(event)
                == "2025-11-21T04:40:00.250Z JOB_STATUS_CHANGE id=j status=running")
    }
}
