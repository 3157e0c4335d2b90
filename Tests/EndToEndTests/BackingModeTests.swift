import Foundation
import TestSupport
import Testing

/// What volumes do about what is below their top.
@Suite(.serialized) struct BackingModeTests {
    private struct Look: Decodable {
        struct Node: Decodable { let file: String }
        let backingMode: String
        let nodes: [Node]

        private enum CodingKeys: String, CodingKey {
            case nodes
            case backingMode = "backing-mode"
        }
    }

    private func look(_ run: ChainRun) throws -> Look {
        let text = try run.agent.tell("--json", "volume", "show", "disk")
        return try JSONDecoder().decode(Look.self, from: Data(text.utf8))
    }

    /// Waits until the volume needs no image but its own and has the mode of such a one.
    private func waitUntilIndependent(_ run: ChainRun) throws {
        let end = Date(timeIntervalSinceNow: 30)
        while true {
            let look = try look(run)
            if look.nodes.count == 1, look.backingMode == "cow" { return }
            try #require(Date() < end, "\(look)")
            usleep(20_000)
        }
    }

    /// The clusters that the top holds itself, as QEMU finds them.
    private func held(_ run: ChainRun) throws -> Set<Int> {
        struct Extent: Decodable { let start: Int, length: Int, depth: Int }
        let text = try Tool.check([
            "qemu-img", "map", "-U", "-f", "qcow2", "--output=json", run.top,
        ])
        let extents = try JSONDecoder().decode([Extent].self, from: Data(text.utf8))
        return Set(
            extents.filter { $0.depth == 0 }
                .flatMap { $0.start >> 16..<($0.start + $0.length + 65535) >> 16 })
    }

    @Test func whatGuestsReadIsStoredAndWhatBackupsReadIsNot() throws {
        let run = try ChainRun.ofThree()
        let before = try held(run)
        try run.agent.tell("volume", "set", "disk", "--backing-mode", "cor")
        try run.agent.tell("repo", "init", "vault", run.directory.path("vault"))
        try run.agent.tell("backup", "disk", "--repo", "vault")
        let uri = run.agent.uri("disk")
        // Half a cluster, and a run of several that ends in one.
        try Tool.check(["qemu-io", "-f", "raw", "-c", "read 196608 32k", uri])
        try Tool.check(["qemu-io", "-f", "raw", "-c", "read -P 3 1100000 200000", uri])
        run.agent.stop(SIGTERM)
        #expect(try held(run) == before.union([3]).union(16...19))
        try run.startAgain()
        #expect(try look(run).backingMode == "cor")
        #expect(try run.contents() == run.before)
        // What is nothing but zeroes below is not stored.
        run.agent.stop(SIGTERM)
        let all = try held(run)
        #expect(all.count > before.count && !all.contains(50))
        #expect(try run.content(of: run.top) == run.before)
        try Tool.check(["qemu-img", "check", "-q", run.top])
    }

    @Test func aVolumeOfModeStreamBecomesIndependent() throws {
        let run = try ChainRun.ofThree()
        try run.agent.tell("volume", "set", "disk", "--backing-mode", "stream")
        try waitUntilIndependent(run)
        #expect(try run.contents() == run.before)
        try run.stopAndCheck()
        for path in run.paths.dropLast() { unlink(path) }
        #expect(try run.content(of: run.top) == run.before)
        // A snapshot is not streamed away again.
        try run.startAgain()
        try run.agent.tell("volume", "snapshot", "disk", run.directory.path("later"))
        try run.restart()
        #expect(try look(run).nodes.count == 2)
    }

    @Test(arguments: [SIGTERM, SIGKILL])
    func theStreamGoesOnAfterTheAgentsEnd(signal: Int32) throws {
        let run = try ChainRun.ofThree(mibibytes: 16)
        try run.agent.tell("volume", "set", "disk", "--backing-mode", "stream")
        try run.agent.tell("job", "set-speed", "stream-disk", "1M")
        try run.waitUntil("stream-disk") { $0.offset > 0 }
        try run.restart(signal)
        try run.agent.tell("job", "set-speed", "stream-disk", "0")
        try waitUntilIndependent(run)
        #expect(try run.contents() == run.before)
        try run.stopAndCheck(wasKilled: signal == SIGKILL)
    }

    @Test func anotherModeEndsTheStreamAndTheNextStartRespectsIt() throws {
        let run = try ChainRun.ofThree(mibibytes: 16)
        try run.agent.tell("volume", "set", "disk", "--backing-mode", "stream")
        try run.agent.tell("job", "set-speed", "stream-disk", "1M")
        try run.agent.tell("volume", "set", "disk", "--backing-mode", "cow")
        try run.restart()
        usleep(300_000)
        #expect(try run.agent.tell("--json", "job", "list").contains("running") == false)
        #expect(try look(run).nodes.count == 3)
        #expect(try run.contents() == run.before)
    }

    @Test func theModeIsSaidWhenTheVolumeIsMade() throws {
        let run = try ChainRun.ofThree()
        try run.agent.tell("volume", "remove", "disk")
        try run.agent.tell(
            "volume", "import", "disk", run.top, "--format", "qcow2", "--allow-outside",
            "--backing-mode", "cor", "--durability", "process")
        #expect(try look(run).backingMode == "cor")
        #expect(try run.agent.tell("volume", "show", "disk").contains("survive the agent's end"))
        try run.agent.tell(
            "volume", "create", "over", "--backing", run.paths[0], "--backing-format", "raw",
            "--backing-mode", "stream")
        let result = try run.agent.run(["volume", "set", "disk", "--backing-mode", "none"])
        #expect(result.status == 64)
    }

    @Test func aVolumeOverNothingHasNothingToStream() throws {
        let run = try ChainRun([ChainRun.Image(commands: ["write -P 1 0 1M"])])
        let result = try run.agent.run(["volume", "set", "disk", "--backing-mode", "stream"])
        #expect(result.status == 1 && result.errors.contains("nothing below its top"))
        #expect(try look(run).backingMode == "cow")
    }
}
