import ArgumentParser
import Testing

@testable import Control
@testable import tidemark

/// What the command line understands.
struct CommandLineTests {
    private static func parse<Command: ParsableCommand>(
        _ type: Command.Type, _ line: String
    ) throws -> Command {
        let words = line.split(separator: " ").map(String.init)
        return try #require(try Tidemark.parseAsRoot(words) as? Command)
    }

    @Test func globalOptionsMayStandAnywhere() throws {
        for line in [
            "--state /s --json volume list", "volume --state /s list --json",
            "volume list --json --state=/s",
        ] {
            let command = try Self.parse(VolumeListCommand.self, line)
            #expect(command.global.stateDirectory == "/s" && command.global.json, "\(line)")
        }
    }

    @Test func aBackupTakesVolumesAndOptions() throws {
        let command = try Self.parse(
            BackupCommand.self, "backup a b --repo r --level full --limit 10M --bitmap x -q")
        #expect(command.volumes == ["a", "b"] && command.repo == "r")
        #expect(command.level == .full && command.limit?.bytes == 10 << 20)
        #expect(command.bitmap == "x" && command.global.quiet)
    }

    @Test func jobsAreSteeredByTheirIds() throws {
        #expect(try Self.parse(JobPauseCommand.self, "job pause j").id == "j")
        #expect(try Self.parse(JobResumeCommand.self, "job resume j").id == "j")
        #expect(try Self.parse(JobCompleteCommand.self, "job complete j").id == "j")
        #expect(try Self.parse(JobFinalizeCommand.self, "job finalize j").id == "j")
        #expect(try !Self.parse(JobCancelCommand.self, "job cancel j").force)
        #expect(try Self.parse(JobCancelCommand.self, "job cancel --force j").force)
        let speed = try Self.parse(JobSetSpeedCommand.self, "job set-speed j 10M")
        #expect(speed.id == "j" && speed.rate.bytes == 10 << 20)
    }

    @Test(arguments: [
        "job pause", "job set-speed j", "job set-speed j fast", "job pause j --force",
        "volume create a", "volume create a --size 1.5G",
        "volume create a --backing x", "volume create a --size 1G --format vmdk",
        "backup --repo r", "backup a", "backup a --repo r --level sometimes", "verify",
        "restore p", "restore p f --as-volume v", "node add n f",
        "node add n f --format raw --backing b", "bitmap merge v t",
        "bitmap add v b --granularity 4G",
        "events --count 0", "volume list -q -v", "nonsense", "qmp",
    ])
    func aWrongUsageHasItsCode(_ line: String) {
        do {
            _ = try Tidemark.parseAsRoot(line.split(separator: " ").map(String.init))
            Issue.record("'\(line)' was accepted")
        } catch {
            #expect(Tidemark.exitCode(for: error).rawValue == ExitStatus.usage.rawValue)
        }
    }

    @Test func everyCommandHasHelpWithAnExample() {
        var pending: [any ParsableCommand.Type] = [Tidemark.self]
        var count = 0
        while let command = pending.popLast() {
            pending += command.configuration.subcommands
            count += 1
            let name = command.configuration.commandName ?? ""
            #expect(!command.configuration.abstract.isEmpty, "\(name)")
            let discussion = command.configuration.discussion
            #expect(
                discussion.contains("Example") && discussion.contains("  tidemark ")
                    || discussion.contains("$(tidemark "), "\(name)")
        }
        #expect(count == 61)
    }
}
