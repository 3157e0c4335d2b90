import Foundation
import TestSupport

/// A running Python script of this folder, which works on volumes until its input ends and logs what it
/// does. Killed with the last reference.
final class ScriptedClient {
    private let process = Process()
    private let input = Pipe()
    private let name: String

    /// Starts `script`, and waits until it `isAtWork`.
    init(_ script: String, _ arguments: [String], isAtWork: () throws -> Bool) throws {
        name = script
        process.executableURL = URL(fileURLWithPath: "/usr/bin/python3")
        process.arguments =
            [
                URL(fileURLWithPath: #filePath).deletingLastPathComponent()
                    .appendingPathComponent(script).path
            ] + arguments
        process.standardInput = input
        // Servers that tests start meanwhile would hold it open.
        _ = fcntl(input.fileHandleForWriting.fileDescriptor, F_SETFD, FD_CLOEXEC)
        process.standardError = FileHandle.nullDevice
        try process.run()
        let deadline = Date(timeIntervalSinceNow: 20)
        while try !isAtWork() {
            guard process.isRunning, Date() < deadline else {
                throw Tool.Failure(description: "\(script) does not begin")
            }
            usleep(10_000)
        }
    }

    deinit {
        if process.isRunning { kill(process.processIdentifier, SIGKILL) }
    }

    /// Ends it at once, whatever is in flight.
    func end() {
        kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
    }

    /// Lets it finish what is in flight.
    func finish() throws {
        try input.fileHandleForWriting.close()
        try wait(for: 0)
    }

    /// Waits until it has ended with that status.
    func wait(for status: Int32) throws {
        process.waitUntilExit()
        guard process.terminationStatus == status else {
            throw Tool.Failure(description: "\(name) ended with \(process.terminationStatus)")
        }
    }
}
