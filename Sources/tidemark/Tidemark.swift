import ArgumentParser
import Control
import Glibc

/// The command line: parses, runs one command, and turns what comes out into an exit code.
@main
struct Tidemark: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "tidemark",
        abstract: "Serve, back up and restore the disks of virtual machines.",
        discussion: """
            Every command but `agent`, `image`, `doctor` and `repo rebuild-catalog` talks to a running agent \
            by the socket in its state directory.

            Example:
              tidemark --state /srv/tidemark agent &
              tidemark --state /srv/tidemark volume create vm1 --size 20G
            """,
        version: ControlVersion.text,
        subcommands: [
            AgentCommand.self, VolumeCommand.self, NodeCommand.self, ExportCommand.self,
            BitmapCommand.self, RepoCommand.self, BackupCommand.self, PointsCommand.self,
            ShowCommand.self,
            VerifyCommand.self, RestoreCommand.self, StreamCommand.self, MirrorCommand.self,
            CommitCommand.self, JobCommand.self, QMPCommand.self, EventsCommand.self,
            ImageCommand.self, DoctorCommand.self,
        ])

    // Here too, so that the global options may stand before the subcommand.
    @OptionGroup var global: GlobalOptions

    static func main() async {
        Glibc.exit(await run(Array(CommandLine.arguments.dropFirst())).rawValue)
    }

    /// Runs the command line `arguments`, without the program's name.
    private static func run(_ arguments: [String]) async -> ExitStatus {
        do {
            var command = try await asyncParseAsRoot(arguments)
            let console = (command as? any GlobalOptionsHolder)?.global.console
            do {
                if var command = command as? any AsyncParsableCommand {
                    try await command.run()
                } else {
                    try command.run()
                }
                return .done
            } catch let error where exitCode(for: error) == .success {
                throw error
            } catch {
                return (console ?? Console()).report(error)
            }
        } catch {
            return report(parsing: error, asJSON: arguments.contains("--json"))
        }
    }

    /// Prints what the parser has to say: help, the version, or what is wrong with the usage.
    private static func report(parsing error: any Error, asJSON isJSON: Bool) -> ExitStatus {
        let text = fullMessage(for: error)
        guard exitCode(for: error) != .success else {
            print(text)
            return .done
        }
        let prefix = "Error: "
        let message = text.hasPrefix(prefix) ? String(text.dropFirst(prefix.count)) : text
        return Console(isJSON: isJSON).report(CommandFailure(.usage, message))
    }
}
