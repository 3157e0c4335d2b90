import Control

/// The one line that shows how far a job is. It knows nothing of terminals and clocks, so that
/// its text can be tested.
struct ProgressLine {
    private struct Sample {
        var seconds: Double
        var bytes: UInt64
    }

    private static let windowSeconds = 10.0
    private var samples: [Sample] = []

    /// The line for a job at `seconds` of some steady clock.
    mutating func text(_ job: JobInfo, at seconds: Double) -> String {
        samples.append(Sample(seconds: seconds, bytes: job.currentProgress))
        samples.removeAll { seconds - $0.seconds > Self.windowSeconds }
        let total = max(job.totalProgress, job.currentProgress)
        var text = "\(job.type) \(job.id): \(ByteSize.text(job.currentProgress))"
        if total > 0 {
            let percent = Int(Double(job.currentProgress) / Double(total) * 100)
            text += " of \(ByteSize.text(total)) (\(percent) %)"
        }
        if job.status != .running { text += ", \(job.status.rawValue)" }
        if let rate = bytesPerSecond, rate >= 1 {
            text += ", \(ByteSize.text(UInt64(rate)))/s"
            let left = Double(total - job.currentProgress) / rate
            text += ", \(TimeText.clock(left)) left"
        }
        return text
    }

    /// Over the last seconds; nil until there are two moments to compare.
    private var bytesPerSecond: Double? {
        guard let first = samples.first, let last = samples.last,
            last.seconds > first.seconds, last.bytes >= first.bytes
        else { return nil }
        return Double(last.bytes - first.bytes) / (last.seconds - first.seconds)
    }
}
