import Foundation
import TestSupport
import Testing

/// A chain of images that QEMU's tools made, and an agent that serves it as the volume `disk`.
final class ChainRun {
    /// One image of the chain.
    struct Image {
        var format = "qcow2"
        var lengthBytes = 4 << 20
        /// What QEMU's client does to it.
        var commands: [String] = []
        /// An export, instead of a file that is made.
        var uri: String?
    }

    let directory: TemporaryDirectory
    private(set) var agent: AgentProcess
    /// The base first.
    let paths: [String]
    let lengthBytes: Int
    /// What the top shows, by QEMU.
    let before: [UInt8]

    var top: String { paths[paths.count - 1] }

    /// The name of the folder in which the images are.
    var folder: String { Self.name(of: directory) }

    private static func name(of directory: TemporaryDirectory) -> String {
        URL(fileURLWithPath: directory.path).lastPathComponent
    }

    /// `images` begin with the base. With `areRelative` the headers name files by relative names.
    init(_ images: [Image], areRelative: Bool = false) throws {
        directory = try TemporaryDirectory()
        var paths: [String] = []
        for (number, image) in images.enumerated() {
            paths.append(image.uri ?? directory.path("img\(number)"))
            guard image.uri == nil else { continue }
            var backing: [String] = []
            if let below = paths.dropLast().last {
                let name = areRelative ? "../\(Self.name(of: directory))/img\(number - 1)" : below
                backing = ["-b", name, "-F", images[number - 1].format]
            }
            try Tool.check(
                ["qemu-img", "create", "-q", "-f", image.format] + backing
                    + [paths[number], "\(image.lengthBytes)"])
            if !image.commands.isEmpty {
                try Tool.check(
                    ["qemu-io", "-f", image.format] + image.commands.flatMap { ["-c", $0] }
                        + [paths[number]])
            }
        }
        self.paths = paths
        lengthBytes = images[images.count - 1].lengthBytes
        before = try Self.content(of: paths[paths.count - 1], "qcow2", directory)
        agent = try AgentProcess(state: directory.path("state"))
        try agent.tell(
            "volume", "import", "disk", paths[paths.count - 1], "--format", "qcow2",
            "--allow-outside")
    }

    /// A base, an image over it and a top, each with something of its own.
    static func ofThree(baseFormat: String = "raw", mibibytes: Int = 4) throws -> ChainRun {
        let length = mibibytes << 20
        return try ChainRun([
            Image(
                format: baseFormat, lengthBytes: length,
                commands: ["write -P 1 0 \(length / 2)", "write -P 2 \(length - 65536) 4096"]),
            Image(
                lengthBytes: length,
                commands: [
                    "write -P 3 \(length / 4) \(length / 2)", "write -z \(length / 2) 65536",
                    "write -P 4 7000 300",
                ]),
            Image(lengthBytes: length, commands: ["write -P 5 \(length / 8) 100000"]),
        ])
    }

    /// What an image that nobody writes holds, as QEMU reads it.
    static func content(
        of path: String, _ format: String, _ directory: TemporaryDirectory
    ) throws -> [UInt8] {
        let flat = directory.path("flat")
        defer { unlink(flat) }
        try Tool.check(["qemu-img", "convert", "-U", "-f", format, "-O", "raw", path, flat])
        return try readFile(flat)
    }

    func content(of path: String, _ format: String = "qcow2") throws -> [UInt8] {
        try Self.content(of: path, format, directory)
    }

    /// What guests see.
    func contents() throws -> [UInt8] {
        defer { unlink(directory.path("copy")) }
        return try agent.copy("disk", to: directory.path("copy"))
    }

    /// The files of the chain of `path` from the top down, as QEMU finds them.
    func chain(of path: String) throws -> [String] {
        struct Info: Decodable { let filename: String }
        let text = try Tool.check([
            "qemu-img", "info", "-U", "--backing-chain", "--output=json", path,
        ])
        return try JSONDecoder().decode([Info].self, from: Data(text.utf8)).map {
            URL(fileURLWithPath: $0.filename).resolvingSymlinksInPath().standardized.path
        }
    }

    /// The files of the volume's chain from the top down, as the agent has them.
    func chain() throws -> [String] {
        struct Volume: Decodable {
            struct Node: Decodable { let file: String }
            let nodes: [Node]
        }
        let text = try agent.tell("--json", "volume", "show", "disk")
        return try JSONDecoder().decode(Volume.self, from: Data(text.utf8)).nodes.map(\.file)
    }

    /// Starts a job that stays to be looked at.
    func start(_ command: String, _ arguments: [String: Any] = [:]) throws {
        let result = try qmp(command, arguments)
        try #require(result.status == 0, "\(command): \(result.errors)")
    }

    /// Why a command is refused; fails if it is not.
    func refusal(
        _ command: String, _ arguments: [String: Any],
        sourceLocation: SourceLocation = #_sourceLocation
    ) throws -> String {
        let result = try qmp(command, arguments)
        #expect(result.status != 0, "it was not refused", sourceLocation: sourceLocation)
        return result.errors
    }

    private func qmp(_ command: String, _ arguments: [String: Any]) throws -> ToolResult {
        var all: [String: Any] = ["device": "disk", "auto-dismiss": false]
        for (key, value) in arguments { all[key] = value }
        let text = String(decoding: try JSONSerialization.data(withJSONObject: all), as: UTF8.self)
        return try agent.run(["qmp", command, text])
    }

    /// Waits for a job, forgets it, and returns why it failed; nil if it did not.
    @discardableResult
    func wait(_ id: String = "disk") throws -> String? {
        let result = try agent.run(["--json", "job", "wait", id])
        struct Job: Decodable { let error: String? }
        let job = try JSONDecoder().decode(Job.self, from: Data(result.output.utf8))
        _ = try agent.run(["job", "dismiss", id])
        return job.error
    }

    func status(_ id: String = "disk") throws -> JobLook {
        try #require(try look(id), "there is no job \(id)")
    }

    private func look(_ id: String) throws -> JobLook? {
        let text = try agent.tell("qmp", "query-block-jobs")
        let jobs = try JSONDecoder().decode([JobLook].self, from: Data(text.utf8))
        return jobs.first { $0.device == id }
    }

    func waitUntil(
        _ id: String = "disk", _ isReached: (JobLook) -> Bool
    ) throws {
        let end = Date(timeIntervalSinceNow: 30)
        while true {
            let look = try look(id)
            if let look, isReached(look) { return }
            try #require(Date() < end, "the job is \(String(describing: look))")
            usleep(20_000)
        }
    }

    /// Ends the agent in order, and has QEMU look at all files of the chain. After a kill clusters
    /// may be left that count as used and are not.
    func stopAndCheck(wasKilled: Bool = false) throws {
        agent.stop(SIGTERM)
        #expect(agent.exitStatus == 0)
        for path in paths where FileManager.default.fileExists(atPath: path) {
            let look = try Tool.run(["qemu-img", "info", path])
            guard look.output.contains("file format: qcow2") else { continue }
            let status = try Tool.run(["qemu-img", "check", "-q", path]).status
            #expect(status == 0 || status == 3 && wasKilled, "\(path)")
        }
    }

    func restart(_ signal: Int32 = SIGTERM) throws {
        agent.stop(signal)
        try startAgain()
    }

    func startAgain() throws { agent = try AgentProcess(state: directory.path("state")) }
}

/// What `query-block-jobs` says of a job.
struct JobLook: Decodable {
    let device: String
    let type: String
    let status: String
    let offset: UInt64
    let len: UInt64
    let speed: UInt64
    let paused: Bool
    let ready: Bool
    let ioStatus: String

    private enum CodingKeys: String, CodingKey {
        case device, type, status, offset, len, speed, paused, ready
        case ioStatus = "io-status"
    }
}
