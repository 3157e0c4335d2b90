import BlockCore
import DriverQcow2
import TestSupport
import Testing

@testable import Volumes

/// Chains whose parts QEMU's tools rebased, committed, converted or amended open and read the same.
@Suite struct ChainOpeningTests {
    private let directory: TemporaryDirectory

    init() throws { directory = try TemporaryDirectory() }

    /// Old and new backing file differ; after the rebase every cluster reads as before.
    @Test func anImageThatWasRebasedReadsAsBefore() async throws {
        try Tool.check(["mkdir", directory.path("folder")])
        let (old, new, top) = (path("old"), path("new"), path("top"))
        for file in [old, new] { try create(file, "1m") }
        try create(top, "1m", backing: "old.qcow2")
        try write(old, "write -P 17 0 128k", "write -P 17 192k 64k", "write -P 17 512k 64k")
        try write(new, "write -P 34 64k 128k", "write -P 17 192k 64k", "write -P 34 512k 64k")
        try write(top, "write -P 51 512k 64k")
        let before = try await content(top)
        // The name is relative to the image, wherever the command runs.
        try Tool.check([
            "qemu-img", "rebase", "-f", "qcow2", "-b", "new.qcow2", "-F", "qcow2", top,
        ])
        let chain = try ImageOpener.chain(path: top, format: .qcow2)
        #expect(chain.map(\.path) == [top, new])
        #expect(try await content(top) == before)
        // What is the same in both was not copied.
        let map = try ImageMap(path: top, format: .qcow2).extents()
        let same = map.first { $0.range.offset <= 192 << 10 && $0.range.end > 192 << 10 }
        #expect(same?.depth == 1)
    }

    @Test func aBackingFormatThatIsUnknownIsRefusedAndNotProbed() async throws {
        try Tool.check(["mkdir", directory.path("folder")])
        let (base, top) = (path("base"), path("top"))
        try create(base, "1m")
        try create(top, "1m", backing: "base.qcow2")
        var bytes = try readFile(top)
        let place = try #require(
            bytes.indices.first { bytes[$0...].starts(with: [0xE2, 0x79, 0x2A, 0xCA]) })
        bytes.replaceSubrange(place + 4..<place + 11, with: [0, 0, 0, 3] + Array("foo".utf8))
        try writeFile(top, bytes)
        let error = #expect(throws: BlockError.self) {
            try ImageOpener.open(path: top, format: .qcow2, readOnly: true, pool: .guest)
        }
        #expect(error?.kind == .unsupported && "\(error!)".contains("foo"))
        #expect(try Qcow2Info(path: top).backing?.format == "foo")
    }

    /// Three images, the changes near 2 GiB, a snapshot in the top: committed down one or two.
    @Test func aChainThatWasCommittedReadsAsBefore() async throws {
        try Tool.check(["mkdir", directory.path("folder")])
        for target in ["middle", "base"] {
            let (base, middle, top) = (path("base"), path("middle"), path("top"))
            for file in [base, middle, top] { try HostDirectory.removeFile(file) }
            try create(base, "2100m")
            try create(middle, "2100m", backing: "base.qcow2")
            try create(top, "2100m", backing: "middle.qcow2")
            try Tool.check(["qemu-img", "snapshot", "-c", "snap", top])
            try write(base, "write -P 1 0x7ffd0000 192k")
            try write(middle, "write -P 2 0x7ffe0000 128k")
            try write(top, "write -P 3 0x7fff0000 64k")
            let range = (offset: 0x7ffc_0000, count: 320 << 10)
            let before = try await content(top, range)
            try Tool.check(["qemu-img", "commit", "-q", "-f", "qcow2", "-b", path(target), top])
            #expect(try await content(path(target), range) == before)
            #expect(try await content(top, range) == before)
            for file in [base, middle, top] {
                #expect(try Qcow2Check.run(path: file).verdict == .clean)
            }
        }
    }

    @Test func imagesThatWereConvertedReadTheSame() async throws {
        try Tool.check(["mkdir", directory.path("folder")])
        let (base, top, copy) = (path("base"), path("top"), path("copy"))
        try create(base, "4m")
        try create(top, "6m", backing: "base.qcow2")
        try write(base, "write -P 17 0 4m")
        try write(
            top, "write -P 0 0 1m", "write -z 1m 1m", "write -P 34 2m 300k", "write -P 5 5m 64k")
        let before = try await content(top)
        for options in [[], ["-c"], ["-S", "0"], ["-c", "-S", "0"], ["-o", "compat=0.10"]] {
            for overlay in [[], ["-B", base, "-F", "qcow2"]] {
                try Tool.check(
                    ["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2"] + options + overlay
                        + [top, copy])
                #expect(try await content(copy) == before, "\(options) \(overlay)")
                let report = try Qcow2Check.run(path: copy)
                #expect(report.verdict == .clean)
            }
        }
    }

    /// Down to version 2, where zeroes must become data, and up again; with a snapshot.
    @Test func imagesThatWereAmendedReadTheSame() async throws {
        try Tool.check(["mkdir", directory.path("folder")])
        let (base, top) = (path("base"), path("top"))
        try create(base, "4m")
        try write(base, "write -P 42 0 1m")
        try create(top, "4m", backing: "base.qcow2")
        try write(top, "write -z 0 128k")
        try Tool.check(["qemu-img", "snapshot", "-c", "snap", top])
        try write(top, "write -P 7 64k 128k", "write -z 256k 64k")
        let before = try await content(top)
        for version in ["0.10", "1.1"] {
            try Tool.check(["qemu-img", "amend", "-f", "qcow2", "-o", "compat=\(version)", top])
            #expect(try Qcow2Info(path: top).version == (version == "1.1" ? 3 : 2))
            #expect(try await content(top) == before, "\(version)")
            #expect(try Qcow2Check.run(path: top).verdict == .clean)
        }
    }

    @Test func anImageThatQemuWasKilledOnOpensForWriting() async throws {
        let image = directory.path("image.qcow2")
        try Tool.check([
            "qemu-img", "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", image, "8m",
        ])
        _ = try Tool.run([
            "qemu-io", "-f", "qcow2", "-c", "write -P 90 0 1m", "-c", "flush", "-c", "sigraise 9",
            image,
        ])
        // For reading it is opened as it is; for writing it is repaired first.
        #expect(try await content(image, (0, 1 << 20)).allSatisfy { $0 == 90 })
        #expect(try Qcow2Info(path: image).isMarkedDirty)
        let chain = try ImageOpener.open(
            path: image, format: .qcow2, readOnly: false, pool: .guest)
        #expect(try !Qcow2Info(path: image).isMarkedDirty)
        #expect(try await chain.top.bytes(at: 0, 1 << 20).allSatisfy { $0 == 90 })
        try await chain.top.put([1, 2, 3], at: 2 << 20)
        try await chain.close()
        #expect(try Qcow2Check.run(path: image).verdict == .clean)
        #expect(try !Qcow2Info(path: image).isMarkedDirty)
    }

    private func path(_ name: String) -> String { directory.path("folder/\(name).qcow2") }

    private func create(_ path: String, _ size: String, backing: String? = nil) throws {
        let backing = backing.map { ["-b", $0, "-F", "qcow2"] } ?? []
        try Tool.check(["qemu-img", "create", "-q", "-f", "qcow2"] + backing + [path, size])
    }

    private func write(_ path: String, _ commands: String...) throws {
        try Tool.check(["qemu-io", "-f", "qcow2"] + commands.flatMap { ["-c", $0] } + [path])
    }

    /// What the chain of `path` holds, in all or in a range.
    private func content(
        _ path: String, _ range: (offset: Int, count: Int)? = nil
    ) async throws -> [UInt8] {
        let chain = try ImageOpener.open(path: path, format: .qcow2, readOnly: true, pool: .guest)
        let all = range ?? (0, Int(chain.top.lengthBytes))
        let bytes = try await chain.top.bytes(at: all.offset, all.count)
        try await chain.close()
        return bytes
    }
}
