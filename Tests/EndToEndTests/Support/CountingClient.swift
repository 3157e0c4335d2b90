import Foundation
import TestSupport

/// A running `counter.py`, which counts across several volumes in their order.
final class CountingClient {
    private let client: ScriptedClient
    private let logPath: String

    init(uris: [String], log: String) throws {
        logPath = log
        client = try ScriptedClient("counter.py", [log] + uris) { (try? Self.last(log)) != nil }
    }

    /// Lets it finish, and returns the number that all volumes have.
    func finish() throws -> UInt64 {
        try client.finish()
        return try Self.last(logPath)
    }

    private static func last(_ logPath: String) throws -> UInt64 {
        let text = try String(contentsOfFile: logPath, encoding: .utf8)
        guard let line = text.split(separator: "\n").first, let number = UInt64(line) else {
            throw Tool.Failure(description: "nothing was noted")
        }
        return number
    }
}
