import Foundation
import TestSupport
import Testing

/// Volumes that are served at once over a point, which is copied behind them.
@Suite(.serialized) struct InstantRestoreTests {
    @Test func itServesAtOnceAndDependsOnNothingInTheEnd() throws {
        let scenario = try RestoreScenario(lengthBytes: 96 << 20, dataMiB: 70)
        try scenario.agent.tell(
            "restore", scenario.points[2].id, "--as-volume", "now", "--instant", "--limit", "60M")
        // Guests read and write while the stream is at work.
        var content = scenario.points[2].content
        for (byte, offset, count) in [(81, 0, 100), (82, 40 << 20, 3 << 20), (83, 95 << 20, 512)] {
            try scenario.write(to: "now", "write -P \(byte) \(offset) \(count)")
            content.replaceSubrange(
                offset..<offset + count, with: repeatElement(UInt8(byte), count: count))
        }
        #expect(try scenario.contents(of: "now") == content)
        try waitForStream(scenario)
        #expect(try pins(scenario).isEmpty)
        #expect(try scenario.contents(of: "now") == content)

        let made = try scenario.agent.backUp("now")
        #expect(made.level == "incremental", "\(made.reason)")
        #expect(made.dirtyBytes <= 4 << 20)
        let target = scenario.directory.path("restored")
        #expect(try scenario.agent.restore(made.id, to: target) == content)

        // Without the repository the volume is whole, also after a restart.
        try FileManager.default.removeItem(atPath: scenario.directory.path("vault"))
        try scenario.restartAgent(SIGTERM)
        #expect(try scenario.contents(of: "now") == content)
        scenario.agent.stop(SIGTERM)
        let image = try #require(try images(scenario).first { $0.contains("/now.") })
        try Tool.check(["qemu-img", "check", image])
        let info = try Tool.check(["qemu-img", "info", "--output=json", image])
        #expect(!info.contains("backing-filename"), "\(info)")
    }

    @Test func killedAgentsLetTheStreamGoOnAndLoseNoWrite() throws {
        var random = Seed.generator("killed stream")
        let scenario = try RestoreScenario(lengthBytes: 96 << 20, dataMiB: 80)
        try scenario.agent.tell(
            "restore", scenario.points[2].id, "--as-volume", "now", "--instant", "--limit", "30M")
        var content = scenario.points[2].content
        for round in 0..<6 {
            for _ in 0..<3 {
                let offset = Int.random(in: 0..<(96 << 20) - 70_000, using: &random)
                let count = Int.random(in: 1...70_000, using: &random)
                try scenario.write(to: "now", "write -P \(90 + round) \(offset) \(count)")
                content.replaceSubrange(
                    offset..<offset + count,
                    with: repeatElement(UInt8(90 + round), count: count))
            }
            usleep(UInt32.random(in: 0...200_000, using: &random))
            try scenario.restartAgent(SIGKILL)
        }
        try waitForStream(scenario)
        #expect(try scenario.contents(of: "now") == content)
        #expect(try pins(scenario).isEmpty)
        let made = try scenario.agent.backUp("now")
        #expect(made.level == "incremental", "\(made.reason)")
        let target = scenario.directory.path("restored")
        #expect(try scenario.agent.restore(made.id, to: target) == content)
        scenario.agent.stop(SIGTERM)
        let image = try #require(try images(scenario).first { $0.contains("/now.") })
        let check = try Tool.run(["qemu-img", "check", image])
        // Killed agents leave clusters that nothing uses, at worst.
        #expect(check.status == 0 || check.status == 3, "\(check.output)\(check.errors)")
    }

    @Test func aCancelledStreamLeavesTheVolumeOverThePointUntilItIsStreamedAgain() throws {
        let scenario = try RestoreScenario(lengthBytes: 96 << 20, dataMiB: 80)
        let started = try scenario.agent.tell(
            "restore", scenario.points[2].id, "--as-volume", "now", "--instant", "--limit", "30M")
        let job = try #require(started.split(separator: " ").first { $0.hasPrefix("stream-") })
        try scenario.agent.tell("job", "cancel", String(job))
        while try scenario.agent.tell("job", "list").contains(job) { usleep(20_000) }
        #expect(try pins(scenario).count == 1)
        #expect(try nodeCount(scenario) > 1)
        #expect(try scenario.contents(of: "now") == scenario.points[2].content)
        try scenario.agent.tell("stream", "now")
        #expect(try pins(scenario).isEmpty)
        #expect(try nodeCount(scenario) == 1)
        #expect(try scenario.contents(of: "now") == scenario.points[2].content)
        // It depends on nothing: there is nothing to do.
        #expect(try scenario.agent.tell("stream", "now").contains("0 B copied"))
    }

    @Test func aVolumeThatIsRemovedMeanwhileLeavesNeitherPinNorImage() throws {
        let scenario = try RestoreScenario()
        try scenario.agent.tell(
            "restore", scenario.points[2].id, "--as-volume", "now", "--instant", "--limit", "1M")
        #expect(try pins(scenario).count == 1)
        try scenario.agent.tell("volume", "remove", "now", "--delete-files")
        #expect(try pins(scenario).isEmpty)
        #expect(try images(scenario).allSatisfy { !$0.contains("/now.") })
        // A gap is refused before anything is made, and leaves no pin.
        unlink(try scenario.path(1, "json"))
        let refused = try scenario.agent.run([
            "restore", scenario.points[2].id, "--as-volume", "now", "--instant",
        ])
        #expect(refused.status == 1 && refused.errors.contains(scenario.points[1].id))
        #expect(try pins(scenario).isEmpty)
    }

    @Test func theLastBlockOfALargePointIsReadWithinTwoSeconds() throws {
        let scenario = try RestoreScenario(lengthBytes: 100 << 30, dataMiB: 8)
        try scenario.write(to: "disk", "write -P 44 107374178304 4k")
        let point = try scenario.agent.backUp("disk").id
        let started = Date()
        try scenario.agent.tell("restore", point, "--as-volume", "now", "--instant")
        try Tool.check([
            "qemu-io", "-f", "raw", "-c", "read -P 44 107374178304 4k", scenario.agent.uri("now"),
        ])
        #expect(Date().timeIntervalSince(started) < 2)
    }

    private func waitForStream(_ scenario: RestoreScenario) throws {
        let deadline = Date(timeIntervalSinceNow: 60)
        while try nodeCount(scenario) > 1 || !pins(scenario).isEmpty {
            guard Date() < deadline else {
                throw Tool.Failure(description: "the stream does not end")
            }
            usleep(50_000)
        }
    }

    private func nodeCount(_ scenario: RestoreScenario) throws -> Int {
        struct Volume: Decodable {
            struct Node: Decodable {}
            let nodes: [Node]
        }
        let text = try scenario.agent.tell("--json", "volume", "show", "now")
        return try JSONDecoder().decode(Volume.self, from: Data(text.utf8)).nodes.count
    }

    private func pins(_ scenario: RestoreScenario) throws -> [String] {
        let vault = scenario.directory.path("vault")
        return try FileManager.default.subpathsOfDirectory(atPath: vault)
            .filter { $0.hasSuffix(".pin") }
    }

    private func images(_ scenario: RestoreScenario) throws -> [String] {
        let folder = scenario.directory.path("state/volumes")
        return try FileManager.default.contentsOfDirectory(atPath: folder)
            .map { "\(folder)/\($0)" }
    }
}
