import Foundation
import TestSupport

/// An agent of this build, running on a state directory, and the command line to talk to it.
final class AgentProcess {
    /// The program that is tested.
    static let executable: String = {
        // The test runner lies beside the executable that is tested.
        let runner = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
        return runner.deletingLastPathComponent().appendingPathComponent("tidemark").path
    }()

    let state: String
    private let process = Process()

    /// Starts an agent, by way of the program `under` if that is given, and waits until it answers.
    init(state: String, under: [String] = []) throws {
        self.state = state
        try FileManager.default.createDirectory(
            atPath: state, withIntermediateDirectories: true)
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = under + [Self.executable, "--state", state, "agent"]
        process.standardInput = FileHandle.nullDevice
        let log = "\(state)/agent.log"
        try Data().write(to: URL(fileURLWithPath: log))
        process.standardError = try FileHandle(forWritingTo: URL(fileURLWithPath: log))
        try process.run()
        let deadline = Date(timeIntervalSinceNow: 30)
        while try Tool.run([Self.executable, "--state", state, "volume", "list"]).status != 0 {
            guard process.isRunning, Date() < deadline else {
                throw Tool.Failure(description: "the agent does not answer:\n\(Self.text(log))")
            }
            usleep(20_000)
        }
    }

    deinit { if process.isRunning { stop(SIGKILL) } }

    /// Sends a signal and waits for the end.
    func stop(_ signal: Int32) {
        kill(process.processIdentifier, signal)
        process.waitUntilExit()
    }

    var identifier: Int32 { process.processIdentifier }

    var exitStatus: Int32 { process.terminationStatus }

    /// Runs a command and returns what it printed; throws unless it succeeds.
    @discardableResult
    func tell(_ arguments: String...) throws -> String {
        let result = try run(arguments)
        guard result.status == 0 else {
            throw Tool.Failure(
                description: "tidemark \(arguments.joined(separator: " ")): status "
                    + "\(result.status)\n\(result.errors)\(Self.text("\(state)/agent.log"))")
        }
        return result.output
    }

    /// Runs a command to its end, whatever comes of it.
    func run(_ arguments: [String]) throws -> ToolResult {
        try Tool.run([Self.executable, "--state", state] + arguments)
    }

    /// Starts a command and does not wait for it.
    func begin(_ arguments: String...) throws -> Process { try begin(arguments) }

    /// The same for arguments in a list, with what it says of errors in a file.
    func begin(_ arguments: [String], errorsTo path: String? = nil) throws -> Process {
        let command = Process()
        command.executableURL = URL(fileURLWithPath: Self.executable)
        command.arguments = ["--state", state] + arguments
        command.standardInput = FileHandle.nullDevice
        command.standardOutput = FileHandle.nullDevice
        command.standardError = FileHandle.nullDevice
        if let path {
            try Data().write(to: URL(fileURLWithPath: path))
            command.standardError = try FileHandle(forWritingTo: URL(fileURLWithPath: path))
        }
        try command.run()
        return command
    }

    /// Where NBD clients find a volume.
    func uri(_ volume: String) -> String { "nbd+unix:///\(volume)?socket=\(state)/nbd.sock" }

    /// Backs a volume up and returns what the command says about the point.
    func backUp(_ volume: String, _ options: String...) throws -> MadePoint {
        let result = try run(["--json", "backup", volume, "--repo", "vault"] + options)
        guard result.status == 0 else {
            throw Tool.Failure(description: "backup: \(result.output)\(result.errors)")
        }
        struct Answer: Decodable {
            struct Result: Decodable { let points: [MadePoint] }
            let result: Result
        }
        let answer = try JSONDecoder().decode(Answer.self, from: Data(result.output.utf8))
        guard let point = answer.result.points.first else {
            throw Tool.Failure(description: "backup made no point: \(result.output)")
        }
        return point
    }

    /// Copies what a volume holds now to a raw file, through NBD.
    func copy(_ volume: String, to path: String) throws -> [UInt8] {
        try Tool.check(["nbdcopy", uri(volume), path])
        return try readFile(path)
    }

    /// Restores a point to a raw file and returns its bytes.
    func restore(_ point: String, to path: String) throws -> [UInt8] {
        try tell("-q", "restore", point, path, "--format", "raw")
        defer { unlink(path) }
        return try readFile(path)
    }

    private static func text(_ path: String) -> String {
        (try? String(contentsOfFile: path, encoding: .utf8)) ?? ""
    }
}

/// What `tidemark backup --json` says of a point.
struct MadePoint: Decodable {
    let id: String
    let level: String
    let reason: String
    let storedBytes: UInt64
    let dirtyBytes: UInt64

    private enum CodingKeys: String, CodingKey {
        case id, level, reason
        case storedBytes = "stored-bytes"
        case dirtyBytes = "dirty-bytes"
    }
}
