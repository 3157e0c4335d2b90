import ArgumentParser
import Control
import Foundation

/// `tidemark events`: what happens, as it happens.
struct EventsCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "events",
        abstract: "Print events as they come.",
        discussion: """
            One line each, until Ctrl-C, the end of the agent, or --count. With --json the lines \
            are the elements of one array.

            Example:
              tidemark events --count 10
            """)

    @OptionGroup var global: GlobalOptions

    @Option(help: ArgumentHelp("End after so many.", valueName: "number"))
    var count: Int?

    func run(_ agent: AgentSession) async throws {
        if agent.console.isJSON { Console.writeToStandardOutput("[") }
        let printing = Task { try await printEvents(agent) }
        let interrupting = Task {
            for await _ in Interrupts.stream() { printing.cancel() }
        }
        defer { interrupting.cancel() }
        let outcome = await printing.result
        if agent.console.isJSON { Console.writeToStandardOutput("\n]\n") }
        do {
            try outcome.get()
        } catch is CancellationError {
            throw PrintedFailure(.interrupted, "interrupted")
        } catch {
            throw PrintedFailure(.failed, "\(error)")
        }
    }

    func validate() throws {
        if let count, count < 1 { throw ValidationError("--count: at least 1") }
    }

    private func printEvents(_ agent: AgentSession) async throws {
        var printed = 0
        for try await event in agent.client.events {
            if agent.console.isJSON {
                let separator = printed == 0 ? "\n" : ",\n"
                Console.writeToStandardOutput(separator + event.message.compactText)
            } else {
                Console.writeToStandardOutput(Self.line(event) + "\n")
            }
            printed += 1
            if printed == count { return }
        }
        try Task.checkCancellation()
        throw QMPClientError.closed(path: agent.client.path)
    }

    /// `TIME NAME KEY=VALUE…`
    static func line(_ event: QMPEvent) -> String {
        let date = Date(
            timeIntervalSince1970: Double(event.seconds) + Double(event.microseconds) / 1e6)
        let time = date.formatted(Date.ISO8601FormatStyle(includingFractionalSeconds: true))
        let members = (event.data?.objectValue ?? [:]).sorted { $0.key < $1.key }
        let data = members.map { "\($0.key)=\($0.value.stringValue ?? $0.value.compactText)" }
        return ([time, event.name] + data).joined(separator: " ")
    }
}
