import Foundation
import TestSupport
import Testing

/// A volume with a full point and two increments, and what it held at each.
final class RestoreScenario {
    struct Point {
        let id: String
        let content: [UInt8]
    }

    /// No multiple of anything.
    static let lengthBytes = (24 << 20) + 4321

    let directory: TemporaryDirectory
    private(set) var agent: AgentProcess
    private(set) var points: [Point] = []
    private let keepsContent: Bool

    /// Makes the three points. The second overwrites and zeroes what the first holds, the third
    /// overwrites what the second holds.
    ///
    /// What they hold is kept only of volumes of moderate size.
    init(lengthBytes: Int = RestoreScenario.lengthBytes, dataMiB: Int = 12) throws {
        keepsContent = lengthBytes <= 128 << 20
        directory = try TemporaryDirectory()
        agent = try AgentProcess(state: directory.path("state"))
        try agent.tell("volume", "create", "disk", "--size", "\(lengthBytes)")
        try agent.tell("repo", "init", "vault", directory.path("vault"))
        try write(to: "disk", "write -P 11 0 \(dataMiB)M", "write -P 12 3M 64k")
        try backUp()
        try write(
            to: "disk", "write -P 21 1M 1M", "write -z 4M 1M", "write -P 22 \(dataMiB + 2)M 100k",
            "discard 6M 64k")
        try backUp()
        try write(to: "disk", "write -P 31 1536k 1M", "write -P 32 \(dataMiB + 3)M 64k")
        try backUp()
    }

    private func backUp() throws {
        let id = try agent.backUp("disk").id
        points.append(Point(id: id, content: keepsContent ? try contents(of: "disk") : []))
    }

    /// Lets QEMU's client do `commands`, and flush.
    func write(to volume: String, _ commands: String...) throws {
        let options = commands.flatMap { ["-c", $0] }
        try Tool.check(["qemu-io", "-f", "raw"] + options + ["-c", "flush", agent.uri(volume)])
    }

    /// What a volume holds now.
    func contents(of volume: String) throws -> [UInt8] {
        defer { unlink(directory.path("copy")) }
        return try agent.copy(volume, to: directory.path("copy"))
    }

    /// Ends the agent by a signal and starts it again.
    func restartAgent(_ signal: Int32, state: String = "state") throws {
        agent.stop(signal)
        agent = try AgentProcess(state: directory.path(state))
    }

    /// A file of the point number `index`.
    func path(_ index: Int, _ suffix: String) throws -> String {
        let vault = directory.path("vault")
        let folder = try #require(
            FileManager.default.contentsOfDirectory(atPath: vault).first { $0.hasPrefix("disk.") })
        return "\(vault)/\(folder)/\(points[index].id).\(suffix)"
    }

    /// Names in the folder of the test that a restore has left.
    func leftovers(in folder: String? = nil) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: folder ?? directory.path)
            .filter { $0.contains(".tidemark-") }
    }
}

/// What `tidemark restore --json` says.
struct RestoreAnswer: Decodable {
    struct Result: Decodable {
        struct Point: Decodable {
            let storedBytes: Int?
            let keptBytes: Int?

            private enum CodingKeys: String, CodingKey {
                case storedBytes = "stored-bytes"
                case keptBytes = "kept-bytes"
            }
        }
        struct Lost: Decodable {
            let offset: Int
            let length: Int
            let reason: String
        }
        let points: [Point]
        let lost: [Lost]?
    }
    let result: Result

    init(_ text: String) throws {
        self = try JSONDecoder().decode(Self.self, from: Data(text.utf8))
    }
}
