import Foundation
import TestSupport
import Testing

/// An agent with one volume of a raw image.
final class MirrorRun {
    struct Answer: Decodable {
        let pivoted: Bool
        let copiedBytes: UInt64
        let instantMilliseconds: Int64

        private enum CodingKeys: String, CodingKey {
            case pivoted
            case copiedBytes = "copied-bytes"
            case instantMilliseconds = "instant-milliseconds"
        }
    }

    let directory: TemporaryDirectory
    private(set) var agent: AgentProcess
    let before: [UInt8]
    var source: String { directory.path("disk.raw") }

    init(_ random: inout SplitMix64) throws {
        directory = try TemporaryDirectory()
        agent = try AgentProcess(state: directory.path("state"))
        before = random.bytes(MirrorTests.lengthBytes)
        try Data(before).write(to: URL(fileURLWithPath: directory.path("disk.raw")))
        try agent.tell("volume", "import", "disk", directory.path("disk.raw"), "--format", "raw")
    }

    func startGuest(_ random: inout SplitMix64) throws -> Guest {
        try Guest(
            uri: agent.uri("disk"), seed: UInt32.random(in: 1...1_000_000, using: &random),
            log: directory.path("guest.log"))
    }

    func path(of target: MirrorTests.Target) -> String { directory.path("target.\(target)") }

    /// Another server with an image of the same length, or with the one that there is.
    func serveTarget(isNew: Bool = true) throws -> ServerProcess {
        let path = path(of: .nbd)
        if isNew {
            _ = FileManager.default.createFile(atPath: path, contents: nil)
            truncate(path, off_t(MirrorTests.lengthBytes))
        }
        let socket = directory.path("target.sock")
        return try ServerProcess(
            ["qemu-nbd", "-f", "raw", "-t", "-e", "8", "-x", "target", "-k", socket, path],
            socket: socket)
    }

    /// A full mirror, until it is ready.
    func mirror(_ target: MirrorTests.Target, _ options: [String]) throws {
        try startMirror(target, ["--sync", "full", "--wait"] + options)
    }

    func startMirror(_ target: MirrorTests.Target, _ options: [String]) throws {
        let place =
            target == .nbd
            ? "nbd+unix:///target?socket=\(directory.path("target.sock"))" : path(of: target)
        let result = try agent.run(["mirror", "disk", place] + options)
        try #require(result.status == 0, "\(result.errors)")
    }

    func waitUntilReady() throws {
        let end = Date(timeIntervalSinceNow: 60)
        // After a restart it may not be there yet.
        while try !agent.run(["--json", "job", "show", "disk"]).output.contains("\"ready\"") {
            try #require(Date() < end)
            usleep(20_000)
        }
    }

    /// Ends the mirror and returns what it came to.
    func end(completes: Bool) throws -> Answer {
        if completes {
            try agent.tell("job", "complete", "disk")
        } else {
            try agent.tell("qmp", "block-job-cancel", #"{"device": "disk"}"#)
        }
        struct Job: Decodable {
            struct Result: Decodable { let mirror: Answer }
            let result: Result
        }
        let text = try agent.tell("--json", "job", "wait", "disk")
        let answer = try JSONDecoder().decode(Job.self, from: Data(text.utf8)).result.mirror
        _ = try? agent.tell("job", "dismiss", "disk")
        return answer
    }

    func contents() throws -> [UInt8] {
        defer { unlink(directory.path("copy")) }
        return try agent.copy("disk", to: directory.path("copy"))
    }

    /// What an image that nobody has open holds.
    func image(
        _ path: String, _ format: String, _ server: ServerProcess? = nil
    ) throws -> [UInt8] {
        server?.stop()
        let flat = directory.path("flat")
        defer { unlink(flat) }
        try Tool.check(["qemu-img", "convert", "-f", format, "-O", "raw", path, flat])
        return Array(try readFile(flat).prefix(MirrorTests.lengthBytes))
    }

    /// The volume's top image.
    func top() throws -> String {
        struct Volume: Decodable { let path: String }
        let text = try agent.tell("--json", "volume", "show", "disk")
        return try JSONDecoder().decode(Volume.self, from: Data(text.utf8)).path
    }

    func restart(_ signal: Int32) throws {
        agent.stop(signal)
        try startAgain()
    }

    func startAgain() throws { agent = try AgentProcess(state: directory.path("state")) }

    /// Ends a mirror that goes on after a restart, or forgets one that does not.
    func giveUp() throws {
        let end = Date(timeIntervalSinceNow: 30)
        while try agent.run(["job", "show", "disk"]).status == 0 {
            try #require(Date() < end)
            _ = try agent.run(["job", "cancel", "--force", "disk"])
            _ = try agent.run(["job", "dismiss", "disk"])
            usleep(10_000)
        }
    }

    struct Mirror: Decodable {
        struct Progress: Decodable {
            let resumed: Bool
            let copyMode: String
            let copyingRate: UInt64
            let dirtyingRate: UInt64
            let outrun: Bool

            private enum CodingKeys: String, CodingKey {
                case resumed, outrun
                case copyMode = "copy-mode"
                case copyingRate = "copying-rate"
                case dirtyingRate = "dirtying-rate"
            }
        }
        let status: String
        let error: String?
        let mirror: Progress?
    }

    /// The mirror as it is now.
    func mirror() throws -> Mirror {
        try JSONDecoder().decode(
            Mirror.self, from: Data(agent.tell("--json", "job", "show", "disk").utf8))
    }
}
