import Foundation
import TestSupport
import Testing

/// One session of everything about bitmaps, jobs and backups, by QEMU's own client library, held with
/// the agent and with `qemu-storage-daemon`.
@Suite(.serialized) struct SessionTests {
    private static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().path

    /// `Differences.md` lists what differs, and why; nothing else may.
    @Test func theAgentAnswersAsQEMUDoes() throws {
        let python = try #require(
            ProcessInfo.processInfo.environment["TIDEMARK_TEST_PYTHON"],
            "Scripts/setup makes a python that has the package qemu.qmp; name it here")
        let result = try Tool.run([
            python, "\(Self.folder)/session/compare.py", Self.executable,
            "\(Self.folder)/Differences.md",
        ])
        #expect(result.status == 0, "\(result.output)\(result.errors)")
    }

    private static let executable: String = {
        // The test runner lies beside the executable that is tested.
        let runner = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
        return runner.deletingLastPathComponent().appendingPathComponent("tidemark").path
    }()
}
