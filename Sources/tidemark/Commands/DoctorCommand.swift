import Agent
import ArgumentParser
import Control

/// `tidemark doctor`: everything that is wrong, with what to do about it.
struct DoctorCommand: AsyncParsableCommand, GlobalOptionsHolder {
    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "List what is wrong anywhere, with the remedy for each.",
        discussion: """
            Looks at the agent, its catalog, volumes, bitmaps, repositories and points, and \
            changes nothing. Works without an agent too, as far as that goes. Exits with 1 if \
            there is an error, with 0 if there are only warnings.

            Example:
              tidemark doctor
            """)

    @OptionGroup var global: GlobalOptions

    func run() async throws {
        let problems = try await problems()
        try global.console.result(problems) { ProblemText.text(problems) }
        let errors = problems.count { $0.severity == .error }
        guard errors == 0 else {
            throw PrintedFailure(.failed, errors == 1 ? "1 error" : "\(errors) errors")
        }
    }

    private func problems() async throws -> [ProblemInfo] {
        let client: QMPClient
        do {
            client = try await QMPClient.connect(to: "\(global.stateDirectory)/control.sock")
        } catch QMPClientError.noAgent {
            return OfflineDiagnosis.run(stateDirectory: HostPath.absolute(global.stateDirectory))
        }
        let agent = AgentSession(
            client: client, console: global.console, stateDirectory: global.stateDirectory)
        do {
            let problems = try await agent.execute(QueryProblems.self)
            await client.close()
            return problems
        } catch {
            await client.close()
            throw error
        }
    }
}
