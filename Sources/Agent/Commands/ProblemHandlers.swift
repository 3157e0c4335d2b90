import Control

extension Agent {
    /// What looks for trouble.
    func registerProblemCommands(in table: inout CommandTable) {
        table.on(QueryProblems.self) { _ in try await Diagnosis(agent: self).run() }
    }
}
