import Control

/// Problems for people.
enum ProblemText {
    /// Two lines for each problem, or that there is none.
    static func text(_ problems: [ProblemInfo]) -> String {
        guard !problems.isEmpty else { return "nothing is wrong" }
        return problems.map {
            "\($0.severity.rawValue): \($0.subject): \($0.problem)\n  remedy: \($0.remedy)"
        }.joined(separator: "\n")
    }
}
