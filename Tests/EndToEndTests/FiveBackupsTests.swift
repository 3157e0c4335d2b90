import Foundation
import TestSupport
import Testing

/// Five backups in a row of a volume that is written in between and, twice, meanwhile.
@Suite(.serialized) struct FiveBackupsTests {
    /// A multiple of nothing.
    static let lengthBytes = (40 << 20) + 12_345 + 676

    @Test(arguments: ["qcow2", "raw"])
    func everyPointShowsItsInstantAndStoresNoMoreThanWhatChanged(format: String) throws {
        let scenario = try Scenario(format: format, lengthBytes: Self.lengthBytes)
        try scenario.writeThroughQEMU(0)
        try scenario.backUpAtRest()
        try scenario.writeThroughQEMU(1)
        try scenario.backUpUnderLoad(seed: 1)
        try scenario.writeThroughQEMU(2)
        try scenario.backUpAtRest()
        try scenario.backUpUnderLoad(seed: 2)
        try scenario.writeThroughQEMU(3)
        try scenario.backUpAtRest()

        #expect(
            scenario.points.map(\.made.level) == ["full"]
                + Array(repeating: "incremental", count: 4))
        for point in scenario.points { try scenario.check(point) }
        let verified = try scenario.agent.run(["verify", "--repo", "vault"])
        #expect(verified.status == 0, "\(verified.errors)")
        scenario.agent.stop(SIGTERM)
        #expect(scenario.agent.exitStatus == 0)
    }
}

/// The volume, its repository, and what is known of each point.
private final class Scenario {
    struct Point {
        let made: MadePoint
        /// What is wrong with bytes as this point's content.
        let fault: ([UInt8]) -> String?
        /// The granules that were written since the point before.
        let touchedGranules: Set<Int>
    }

    static let granularityBytes = 64 << 10

    let directory: TemporaryDirectory
    let agent: AgentProcess
    let lengthBytes: Int
    private(set) var points: [Point] = []
    private var touched: Set<Int> = []

    init(format: String, lengthBytes: Int) throws {
        directory = try TemporaryDirectory()
        self.lengthBytes = lengthBytes
        agent = try AgentProcess(state: directory.path("state"))
        try agent.tell(
            "volume", "create", "disk", "--size", "\(lengthBytes)", "--format", format)
        try agent.tell("repo", "init", "vault", directory.path("vault"))
    }

    /// Data, zeroes and discards at odd offsets by QEMU's client, and the last bytes, which that
    /// client cannot reach since it sees whole sectors only, by libnbd's.
    func writeThroughQEMU(_ round: Int) throws {
        let base = 1_000_003 * (round + 1)
        var commands: [String] = []
        for (command, offset, length) in [
            ("write -P \(17 + round)", base, 300_007), ("write -z", base + 100_001, 70_001),
            ("discard", base + 180_000, 65_536 * 2), ("write -P \(33 + round)", 20 << 20, 1),
            ("write -P \(49 + round)", (30 << 20) + 65_535, 2),
            ("write -z -u", (25 << 20) + round * 65_536, 65_536),
            ("write -P 7", (25 << 20) + (round + 1) * 65_536, 65_536),
        ] {
            commands += ["-c", "\(command) \(offset) \(length)"]
            touch(offset..<offset + length)
        }
        try Tool.check(["qemu-io", "-f", "raw"] + commands + ["-c", "flush", agent.uri("disk")])
        let last = lengthBytes - 5..<lengthBytes
        try Tool.check([
            "/usr/bin/python3", "-c",
            "import nbd,sys; h=nbd.NBD(); h.connect_uri(sys.argv[1]);"
                + "h.pwrite(bytes([\(round + 1)]*5), \(last.lowerBound)); h.flush(); h.shutdown()",
            agent.uri("disk"),
        ])
        touch(last)
    }

    /// A backup with nobody writing: the point is what the disk holds.
    func backUpAtRest() throws {
        let made = try agent.backUp("disk")
        let expected = try contents()
        points.append(
            Point(
                made: made,
                fault: { $0 == expected ? nil : Self.firstDifference($0, expected) },
                touchedGranules: touched))
        touched = []
    }

    /// A backup in the middle of a guest's writes, slowed so that it takes a while.
    func backUpUnderLoad(seed: UInt32) throws {
        let before = try contents()
        let guest = try Guest(
            uri: agent.uri("disk"), seed: seed, log: directory.path("guest-\(seed).log"))
        usleep(300_000)
        let made = try agent.backUp("disk", "--limit", "20M")
        usleep(200_000)
        let log = try guest.finish()
        let freeze = try freezeMilliseconds(ofManifest: file(of: made.id, suffix: "json"))
        let begin = freeze * 1_000_000
        let inside = log.requests.filter { $0.issued <= begin + 1_000_000 }
        let outside = log.requests.filter { ($0.acknowledged ?? .max) >= begin }
        #expect(inside.count > 20 && outside.count > 20, "the guest did not write on both sides")
        for request in inside { touch(log.cells[request.cell]) }
        points.append(
            Point(
                made: made,
                fault: { log.fault(of: $0, before: before, freezeMilliseconds: freeze) },
                touchedGranules: touched))
        touched = []
        for request in outside { touch(log.cells[request.cell]) }
    }

    /// Restores the point in two ways and looks at its file with QEMU's tools.
    func check(_ point: Point) throws {
        let restored = try agent.restore(point.made.id, to: directory.path("restored"))
        let fault = point.fault(restored)
        #expect(fault == nil, "tidemark restore of \(point.made.id)")

        let image = try file(of: point.made.id, suffix: "qcow2")
        let converted = directory.path("converted")
        try Tool.check(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, converted])
        // The image is as long as whole sectors are; its tail beyond the volume is zero.
        let bytes = try readFile(converted)
        unlink(converted)
        #expect(bytes.count == (lengthBytes + 511) / 512 * 512)
        #expect(Array(bytes[..<lengthBytes]) == restored, "qemu-img convert of \(image)")
        #expect(bytes[lengthBytes...].allSatisfy { $0 == 0 })

        let check = try Tool.run(["qemu-img", "check", image])
        #expect(check.status == 0, "\(check.output)\(check.errors)")
        if point.made.level == "incremental" {
            let allowed = UInt64(point.touchedGranules.count * Self.granularityBytes)
            #expect(point.made.dirtyBytes <= allowed)
            #expect(point.made.storedBytes <= allowed)
            #expect(try dataBytes(inLayerOf: image) <= allowed)
        }
    }

    private func touch(_ range: Range<Int>) {
        guard !range.isEmpty else { return }
        touched.formUnion(
            range.lowerBound / Self.granularityBytes...(range.upperBound - 1)
                / Self.granularityBytes)
    }

    private func contents() throws -> [UInt8] {
        defer { unlink(directory.path("copy")) }
        return try agent.copy("disk", to: directory.path("copy"))
    }

    /// What the topmost image of a chain itself holds as data, by qemu-img's word.
    private func dataBytes(inLayerOf image: String) throws -> UInt64 {
        struct Entry: Decodable {
            let length: UInt64
            let depth: Int
            let data: Bool
        }
        let map = try Tool.check(["qemu-img", "map", "--output=json", image])
        return try JSONDecoder().decode([Entry].self, from: Data(map.utf8))
            .filter { $0.depth == 0 && $0.data }.reduce(0) { $0 + $1.length }
    }

    private func file(of id: String, suffix: String) throws -> String {
        let vault = directory.path("vault")
        let folder = try #require(
            FileManager.default.contentsOfDirectory(atPath: vault).first { $0.hasPrefix("disk.") })
        return "\(vault)/\(folder)/\(id).\(suffix)"
    }

    private static func firstDifference(_ bytes: [UInt8], _ expected: [UInt8]) -> String {
        guard bytes.count == expected.count else {
            return "\(bytes.count) bytes instead of \(expected.count)"
        }
        let index = zip(bytes, expected).enumerated().first { $0.element.0 != $0.element.1 }
        return "differs first at \(index?.offset ?? -1)"
    }
}
