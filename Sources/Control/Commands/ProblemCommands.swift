/// Looks for everything that is wrong.
package enum QueryProblems: ControlCommand {
    package typealias Arguments = Nothing
    package typealias Result = [ProblemInfo]

    package static let name = "query-problems"
    package static let summary = "what is wrong with volumes, repositories and the agent itself"
}

/// How bad a problem is.
package enum ProblemSeverity: String, Codable, Sendable, CaseIterable {
    /// Something does not work, or data is in danger.
    case error
    /// Something will cost time or become an error.
    case warning
}

/// One thing that is wrong.
package struct ProblemInfo: Codable, Sendable, Equatable {
    package var severity: ProblemSeverity
    /// What it is about: "volume vm1".
    package var subject: String
    package var problem: String
    /// What to do.
    package var remedy: String

    package init(
        _ severity: ProblemSeverity, _ subject: String, _ problem: String, remedy: String
    ) {
        self.severity = severity
        self.subject = subject
        self.problem = problem
        self.remedy = remedy
    }
}
