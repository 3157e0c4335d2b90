import Foundation
import TestSupport

/// What `tidemark events` prints, in a file.
final class EventLog {
    private let process = Process()
    private let path: String

    init(_ agent: AgentProcess, to path: String) throws {
        self.path = path
        try Data().write(to: URL(fileURLWithPath: path))
        process.executableURL = URL(fileURLWithPath: AgentProcess.executable)
        process.arguments = ["--state", agent.state, "--json", "events"]
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = try FileHandle(forWritingTo: URL(fileURLWithPath: path))
        try process.run()
        // Until it is connected, nothing is shown to it.
        usleep(500_000)
    }

    deinit {
        process.terminate()
        process.waitUntilExit()
    }

    /// The first line that names `event`.
    func wait(for event: String) throws -> String {
        let deadline = Date(timeIntervalSinceNow: 10)
        while Date() < deadline {
            let text = try String(contentsOfFile: path, encoding: .utf8)
            if let line = text.split(separator: "\n").first(where: { $0.contains(event) }) {
                return String(line)
            }
            usleep(20_000)
        }
        throw Tool.Failure(description: "no \(event) was sent")
    }
}
