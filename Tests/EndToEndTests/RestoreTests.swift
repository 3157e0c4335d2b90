import Foundation
import TestSupport
import Testing

/// Restores of whole, broken and interrupted kinds, with QEMU's and libnbd's tools as judges.
@Suite(.serialized) struct RestoreTests {
    @Test func aGapIsRefusedByTheNameOfTheMissingPointAndWhatSurvivesIsSalvaged() throws {
        let scenario = try RestoreScenario()
        for suffix in ["json", "qcow2", "digests"] { unlink(try scenario.path(1, suffix)) }
        let target = scenario.directory.path("restored")
        let refused = try scenario.agent.run(
            ["restore", scenario.points[2].id, target, "--format", "raw"])
        #expect(refused.status == 1)
        #expect(refused.errors.contains(scenario.points[1].id), "\(refused.errors)")
        #expect(refused.errors.contains("--salvage"), "\(refused.errors)")
        #expect(access(target, F_OK) != 0)
        #expect(try scenario.leftovers().isEmpty)

        let salvaged = try scenario.agent.run([
            "--json", "restore", scenario.points[2].id, target, "--format", "raw", "--salvage",
        ])
        #expect(salvaged.status == 3, "\(salvaged.output)\(salvaged.errors)")
        let lost = try #require(try RestoreAnswer(salvaged.output).result.lost)
        #expect(lost.allSatisfy { $0.reason.contains(scenario.points[1].id) })
        let bytes = try readFile(target)
        // What the third point holds is proven; all else is as the first point has it, and listed.
        var expected = scenario.points[2].content
        var provenBytes = bytes.count
        for lost in lost {
            let range = lost.offset..<lost.offset + lost.length
            expected.replaceSubrange(range, with: scenario.points[0].content[range])
            provenBytes -= lost.length
        }
        #expect(bytes == expected)
        #expect(provenBytes >= (1 << 20) + (64 << 10))
        #expect(try scenario.leftovers().isEmpty)
    }

    @Test func aMissingManifestLosesNothingButTheProof() throws {
        let scenario = try RestoreScenario()
        unlink(try scenario.path(1, "json"))
        let target = scenario.directory.path("restored")
        let salvaged = try scenario.agent.run([
            "--json", "restore", scenario.points[2].id, target, "--format", "raw", "--salvage",
        ])
        #expect(salvaged.status == 3, "\(salvaged.output)\(salvaged.errors)")
        #expect(try readFile(target) == scenario.points[2].content)
        let lost = try #require(try RestoreAnswer(salvaged.output).result.lost)
        #expect(lost.allSatisfy { $0.reason.contains("unproven") })
    }

    @Test func damagedDataStopARestoreAndOnlyTheyAreLostToASalvage() throws {
        let scenario = try RestoreScenario()
        let image = try scenario.path(0, "qcow2")
        // Every point shows this place as the first one holds it.
        let place = try hostOffset(of: (8 << 20) + 5, in: image)
        let file = try #require(fopen(image, "r+"))
        fseek(file, place, SEEK_SET)
        fputc(0xEE, file)
        fclose(file)

        let target = scenario.directory.path("restored")
        let arguments = ["restore", scenario.points[2].id, target, "--format", "raw"]
        let refused = try scenario.agent.run(arguments)
        #expect(refused.status == 1 && refused.errors.contains("digest"), "\(refused.errors)")
        #expect(access(target, F_OK) != 0)

        let salvaged = try scenario.agent.run(["--json"] + arguments + ["--salvage"])
        #expect(salvaged.status == 3, "\(salvaged.output)\(salvaged.errors)")
        let lost = try #require(try RestoreAnswer(salvaged.output).result.lost)
        #expect(lost.count == 1 && lost[0].length == 64 << 10)
        let bytes = try readFile(target)
        var expected = scenario.points[2].content
        expected[(8 << 20) + 5] = 0xEE
        #expect(bytes == expected)
        #expect((lost[0].offset..<lost[0].offset + lost[0].length).contains((8 << 20) + 5))
    }

    @Test func pointsFollowTheirParentsWhateverTheTimesOfTheirFilesSay() throws {
        let scenario = try RestoreScenario()
        for index in 0..<3 {
            for suffix in ["json", "qcow2", "digests"] {
                var times = [timeval](
                    repeating: timeval(tv_sec: 1_000_000_000 - index * 86_400, tv_usec: 0),
                    count: 2)
                utimes(try scenario.path(index, suffix), &times)
            }
        }
        for point in scenario.points {
            #expect(
                try scenario.agent.restore(point.id, to: scenario.directory.path("restored"))
                    == point.content)
        }
        let latest = try scenario.agent.restore(
            "disk@latest", to: scenario.directory.path("restored"))
        #expect(latest == scenario.points[2].content)
    }

    @Test func zeroesReplaceWhatAnExportHeldBefore() throws {
        let scenario = try RestoreScenario()
        let length = RestoreScenario.lengthBytes
        let old = scenario.directory.path("old")
        let socket = scenario.directory.path("nbd.sock")
        let uri = "nbd+unix:///?socket=\(socket)"
        for (size, fits) in [(length - 1, false), (length, true), (length + 70_000, true)] {
            try Data(repeating: 0xA5, count: size).write(to: URL(fileURLWithPath: old))
            let server = try ServerProcess(
                ["nbdkit", "-f", "-U", socket, "file", old], socket: socket)
            defer { server.stop() }
            let result = try scenario.agent.run(["restore", scenario.points[2].id, uri])
            #expect((result.status == 0) == fits, "\(size): \(result.errors)")
            guard fits else {
                #expect(result.errors.contains("\(length)"), "\(result.errors)")
                continue
            }
            let bytes = try readFile(old)
            #expect(Array(bytes[..<length]) == scenario.points[2].content)
            #expect(bytes[length...].allSatisfy { $0 == 0 })
        }
        #expect(try scenario.leftovers(in: scenario.directory.path("state/restores")).isEmpty)
    }

    @Test func aRestoreToQcow2IsWholeByQEMUsWord() throws {
        let scenario = try RestoreScenario()
        let target = scenario.directory.path("restored.qcow2")
        try scenario.agent.tell("restore", scenario.points[2].id, target)
        try Tool.check(["qemu-img", "check", target])
        try Tool.check([
            "qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", target,
            try scenario.path(2, "qcow2"),
        ])
        let taken = try scenario.agent.run(["restore", scenario.points[1].id, target])
        #expect(taken.status == 1 && taken.errors.contains("something by that name"))
        #expect(try scenario.leftovers().isEmpty)
    }

    @Test(arguments: ["raw", "qcow2"])
    func aKilledOrInterruptedRestoreGoesOnWhereItWas(format: String) throws {
        var random = Seed.generator("killed restore \(format)")
        let scenario = try RestoreScenario(lengthBytes: 60 << 20, dataMiB: 48)
        let target = scenario.directory.path("restored")
        let arguments = ["restore", scenario.points[2].id, target, "--format", format]
        let journal = "\(target).\(scenario.points[2].id).tidemark-journal"
        for round in 0..<3 {
            let tool = try scenario.agent.begin(arguments + ["--limit", "40M"])
            let before = linesCount(of: journal)
            while tool.isRunning, linesCount(of: journal) <= max(before, 1) { usleep(2000) }
            #expect(tool.isRunning, "it ended before it could be interrupted")
            usleep(UInt32.random(in: 0...30_000, using: &random))
            #expect(access(target, F_OK) != 0, "the restore was too fast to be interrupted")
            switch round {
            case 0: kill(tool.processIdentifier, SIGINT)
            case 1: kill(tool.processIdentifier, SIGKILL)
            default: try scenario.restartAgent(SIGKILL)
            }
            tool.waitUntilExit()
            if round == 1 { try scenario.restartAgent(SIGKILL) }
            #expect(access(target, F_OK) != 0)
        }
        let result = try scenario.agent.run(["--json"] + arguments)
        #expect(result.status == 0, "\(result.output)\(result.errors)")
        let kept = try RestoreAnswer(result.output).result.points[0].keptBytes ?? 0
        #expect(kept > 0, "everything was written anew")
        try Tool.check([
            "qemu-img", "compare", "-f", format, "-F", "qcow2", target,
            try scenario.path(2, "qcow2"),
        ])
        if format == "qcow2" { try Tool.check(["qemu-img", "check", target]) }
        #expect(try scenario.leftovers().isEmpty)
    }

    /// A killed tool leaves its job; the same command again follows it.
    @Test func theSameCommandFollowsARestoreThatIsUnderWay() throws {
        let scenario = try RestoreScenario(lengthBytes: 60 << 20, dataMiB: 48)
        let target = scenario.directory.path("restored")
        let arguments = ["restore", scenario.points[2].id, target, "--limit", "40M"]
        let tool = try scenario.agent.begin(arguments)
        while linesCount(of: "\(target).\(scenario.points[2].id).tidemark-journal") < 1 {
            usleep(2000)
        }
        kill(tool.processIdentifier, SIGKILL)
        tool.waitUntilExit()
        let other = try scenario.agent.run(["restore", scenario.points[1].id, target])
        #expect(other.status != 0 && other.errors.contains(scenario.points[2].id))
        let result = try scenario.agent.run(arguments)
        #expect(result.status == 0, "\(result.errors)")
        try Tool.check([
            "qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", target,
            try scenario.path(2, "qcow2"),
        ])
    }

    /// Where an image has the byte at `offset`, by qemu-img's word.
    private func hostOffset(of offset: Int, in image: String) throws -> Int {
        struct Entry: Decodable {
            let start: Int
            let length: Int
            let offset: Int?
        }
        let map = try Tool.check(["qemu-img", "map", "--output=json", image])
        let entries = try JSONDecoder().decode([Entry].self, from: Data(map.utf8))
        let entry = try #require(
            entries.first { $0.start <= offset && offset < $0.start + $0.length })
        return try #require(entry.offset) + offset - entry.start
    }

    private func linesCount(of path: String) -> Int {
        ((try? readFile(path)) ?? []).count { $0 == 0x0A }
    }

    @Test func theSpaceIsCheckedBeforehand() throws {
        let scenario = try RestoreScenario()
        let mount = scenario.directory.path("small")
        try FileManager.default.createDirectory(
            atPath: mount, withIntermediateDirectories: false)
        try Tool.check(["mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", mount])
        defer { _ = try? Tool.run(["umount", mount]) }
        let result = try scenario.agent.run(
            ["restore", scenario.points[2].id, "\(mount)/restored"])
        #expect(result.status == 1)
        #expect(result.errors.contains("bytes are needed"), "\(result.errors)")
        #expect(try FileManager.default.contentsOfDirectory(atPath: mount).isEmpty)
    }

    @Test func aRestoredVolumeContinuesTheChainBesideTheOneThatWasBackedUp() throws {
        let scenario = try RestoreScenario()
        try scenario.agent.tell("restore", scenario.points[1].id, "--as-volume", "second")
        #expect(try scenario.contents(of: "second") == scenario.points[1].content)
        try scenario.write(to: "second", "write -P 77 9M 64k", "write -z 0 64k")
        let content = try scenario.contents(of: "second")
        let made = try scenario.agent.backUp("second")
        #expect(made.level == "incremental", "\(made.reason)")
        #expect(made.dirtyBytes <= 128 << 10)
        // The other volume goes on from its own last point.
        try scenario.write(to: "disk", "write -P 78 10M 64k")
        let other = try scenario.contents(of: "disk")
        let further = try scenario.agent.backUp("disk")
        #expect(further.level == "incremental" && further.dirtyBytes <= 64 << 10)
        let target = scenario.directory.path("restored")
        #expect(try scenario.agent.restore(made.id, to: target) == content)
        #expect(try scenario.agent.restore(further.id, to: target) == other)
        #expect(try scenario.agent.run(["verify", "--repo", "vault"]).status == 0)
    }

    @Test func aVolumeRestoredFromNothingButTheRepositoryContinuesItsChain() throws {
        let scenario = try RestoreScenario()
        let state = scenario.directory.path("elsewhere")
        try Tool.check([
            AgentProcess.executable, "--state", state, "repo", "rebuild-catalog",
            scenario.directory.path("vault"),
        ])
        try scenario.restartAgent(SIGKILL, state: "elsewhere")
        try scenario.agent.tell("restore", "disk@latest", "--as-volume", "disk")
        try scenario.write(to: "disk", "write -P 79 2M 1M")
        let content = try scenario.contents(of: "disk")
        let made = try scenario.agent.backUp("disk")
        #expect(made.level == "incremental", "\(made.reason)")
        #expect(
            try scenario.agent.restore(made.id, to: scenario.directory.path("restored"))
                == content)
        // What was salvaged with losses continues nothing: its next backup compares.
        unlink(try scenario.path(1, "json"))
        let salvaged = try scenario.agent.run([
            "restore", scenario.points[2].id, "--as-volume", "salvaged", "--salvage",
        ])
        #expect(salvaged.status == 3)
        let next = try scenario.agent.backUp("salvaged")
        #expect(next.reason == "bitmap-missing")
        let copy = try scenario.contents(of: "salvaged")
        #expect(
            try scenario.agent.restore(next.id, to: scenario.directory.path("restored")) == copy)
    }
}
