import ArgumentParser
import Control

/// A command's connection to the agent of a state directory.
struct AgentSession: Sendable {
    let client: QMPClient
    let console: Console
    let stateDirectory: String

    /// Connects to the agent that `options` name.
    static func connect(_ options: GlobalOptions) async throws -> AgentSession {
        let state = options.stateDirectory
        let path = "\(state)/control.sock"
        do {
            return AgentSession(
                client: try await QMPClient.connect(to: path), console: options.console,
                stateDirectory: state)
        } catch QMPClientError.noAgent {
            throw CommandFailure(
                .failed,
                "no agent answers on \(path): start it with `tidemark --state \(state) agent`")
        }
    }

    /// Runs one command of the agent.
    func execute<Command: ControlCommand>(
        _ command: Command.Type, _ arguments: Command.Arguments
    ) async throws -> Command.Result {
        console.detail(
            "\(Command.name) \((try? JSONValue(encoding: arguments).compactText) ?? "")")
        do {
            return try await client.execute(command, arguments)
        } catch QMPClientError.closed(let path) {
            throw CommandFailure(
                .failed,
                "\(Command.name): the agent on \(path) went away: look at its log, and start it "
                    + "with `tidemark --state \(stateDirectory) agent`")
        }
    }

    /// Runs one command that takes no arguments.
    func execute<Command: ControlCommand>(
        _ command: Command.Type
    ) async throws -> Command.Result where Command.Arguments == Nothing {
        try await execute(command, Nothing())
    }

    /// The volume called `name`.
    func volume(_ name: String) async throws -> VolumeInfo {
        let volumes = try await execute(QueryVolumes.self, .init(name: name))
        guard let volume = volumes.first(where: { $0.name == name }) else {
            throw CommandFailure(
                .failed, "there is no volume '\(name)': `tidemark volume list` shows them")
        }
        return volume
    }
}

/// A command that needs the agent.
protocol ClientCommand: AsyncParsableCommand, GlobalOptionsHolder {
    /// Does the command's work with a connected agent.
    func run(_ agent: AgentSession) async throws
}

extension ClientCommand {
    mutating func run() async throws {
        let agent = try await AgentSession.connect(global)
        do {
            try await run(agent)
        } catch {
            await agent.client.close()
            throw error
        }
        await agent.client.close()
    }
}
