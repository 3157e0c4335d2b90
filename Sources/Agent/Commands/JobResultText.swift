import BlockCore
import Control
import Foundation
import Jobs
import Repository

extension Control.JobResult {
    init(_ result: Jobs.JobResult) {
        switch result {
        case .backup(let outcomes, let failures):
            self.init(
                points: outcomes.map(JobPoint.init),
                failures: failures.isEmpty
                    ? nil
                    : failures.map {
                        Control.JobFailure(subject: $0.subject, error: $0.error.description)
                    })
        case .restore(let outcome):
            self.init(
                points: [
                    JobPoint(
                        id: outcome.pointID, storedBytes: outcome.writtenBytes,
                        keptBytes: outcome.keptBytes > 0 ? outcome.keptBytes : nil,
                        durationSeconds: outcome.duration.seconds)
                ],
                target: outcome.isVolume ? nil : outcome.target,
                volume: outcome.isVolume ? outcome.target : nil,
                lost: outcome.lost.isEmpty
                    ? nil
                    : outcome.lost.map {
                        JobLostRange(
                            offset: $0.range.offset, length: $0.range.lengthBytes,
                            reason: $0.reason)
                    })
        case .stream(let outcome):
            self.init(
                points: outcome.pointID.map { point in
                    [
                        JobPoint(
                            id: point, volume: outcome.volume, storedBytes: outcome.copiedBytes,
                            durationSeconds: outcome.duration.seconds)
                    ]
                },
                volume: outcome.volume,
                chain: JobChain(
                    copiedBytes: outcome.copiedBytes, durationSeconds: outcome.duration.seconds))
        case .commit(let outcome):
            self.init(
                target: outcome.base, volume: outcome.volume,
                chain: JobChain(
                    copiedBytes: outcome.copiedBytes, durationSeconds: outcome.duration.seconds))
        case .mirror(let outcome):
            self.init(
                target: outcome.target, volume: outcome.volume,
                mirror: JobMirror(
                    pivoted: outcome.isPivoted, copiedBytes: outcome.copiedBytes,
                    sentBytes: outcome.sentBytes,
                    instantMilliseconds: outcome.instant.map {
                        Int64(($0.timeIntervalSince1970 * 1000).rounded(.down))
                    },
                    durationSeconds: outcome.duration.seconds))
        case .copy(let outcome):
            self.init(target: outcome.target, volume: outcome.volume)
        case .verify(let outcomes):
            self.init(
                points: outcomes.map { JobPoint(id: $0.pointID, storedBytes: $0.checkedBytes) },
                failures: outcomes.filter { !$0.isGood }.map {
                    Control.JobFailure(subject: $0.pointID, error: $0.text)
                })
        }
    }
}

extension JobPoint {
    init(_ outcome: BackupOutcome) {
        self.init(
            id: outcome.pointID, volume: outcome.volume, level: outcome.level,
            reason: outcome.reason, storedBytes: outcome.storedBytes,
            dirtyBytes: outcome.dirtyBytes, durationSeconds: outcome.duration.seconds,
            freezeDurationSeconds: outcome.freezeDuration.seconds,
            worstWriteDelaySeconds: outcome.worstWriteDelay.seconds)
    }
}

extension VerifyOutcome {
    /// What was found, in one line.
    fileprivate var text: String {
        var parts = problems
        if let first = badRanges.first {
            let bytes = badRanges.reduce(0) { $0 + $1.lengthBytes }
            parts.append(
                "\(bytes) bytes in \(badRanges.count) ranges differ from what was backed up, "
                    + "the first at \(first.offset)")
        }
        return parts.joined(separator: "; ")
    }
}

extension Duration {
    /// As a number, for JSON.
    var seconds: Double {
        Double(components.seconds) + Double(components.attoseconds) / 1e18
    }
}
