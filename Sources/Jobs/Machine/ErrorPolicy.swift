/// What a job does about a request of its own that failed.
package enum ErrorPolicy: String, Codable, Sendable, CaseIterable {
    /// Fail.
    case report
    /// Say so, and go on.
    case ignore
    /// Wait for a user if the medium is full; else fail.
    case enospc
    /// Wait for a user.
    case stop
    /// The same as `enospc`.
    case auto

    func action(isFull: Bool) -> ErrorAction {
        switch self {
        case .report: .report
        case .ignore: .ignore
        case .stop: .stop
        case .enospc, .auto: isFull ? .stop : .report
        }
    }
}

/// What a job did about a request that failed.
package enum ErrorAction: String, Sendable {
    case ignore, report, stop
}

/// How a body goes on after a request that failed.
package enum ErrorDecision: Sendable {
    /// Do it again.
    case retry
    /// Go on as if it did not matter, in the way of the job's kind.
    case ignore
}

/// What a job waits for a user to put right.
package enum JobIOStatus: String, Sendable {
    case ok, failed, nospace
}
