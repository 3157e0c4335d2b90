import Foundation
import TestSupport

/// A running `counter.py`, which counts across several volumes in their order.
final class CountingClient {
    private let process = Process()
    private let input = Pipe()
    private let logPath: String

    init(uris: [String], log: String) throws {
        logPath = log
        let script = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("counter.py").path
        process.executableURL = URL(fileURLWithPath: "/usr/bin/python3")
        process.arguments = [script, log] + uris
        process.standardInput = input
        process.standardError = FileHandle.nullDevice
        try process.run()
        // It is at work once it has noted a number.
        let deadline = Date(timeIntervalSinceNow: 20)
        while (try? last()) == nil {
            guard process.isRunning, Date() < deadline else {
                throw Tool.Failure(description: "the client does not count")
            }
            usleep(10_000)
        }
    }

    deinit {
        if process.isRunning { kill(process.processIdentifier, SIGKILL) }
    }

    /// Lets it finish, and returns the number that all volumes have.
    func finish() throws -> UInt64 {
        try input.fileHandleForWriting.close()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else {
            throw Tool.Failure(description: "the client ended with \(process.terminationStatus)")
        }
        return try last()
    }

    private func last() throws -> UInt64 {
        let text = try String(contentsOfFile: logPath, encoding: .utf8)
        guard let line = text.split(separator: "\n").first, let number = UInt64(line) else {
            throw Tool.Failure(description: "nothing was noted")
        }
        return number
    }
}
