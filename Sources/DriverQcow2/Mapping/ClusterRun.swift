/// Consecutive clusters of the host file, by number.
struct ClusterRun: Sendable, Equatable {
    var first: UInt64
    var count: UInt64

    var end: UInt64 { first + count }

    func contains(_ cluster: UInt64) -> Bool { cluster >= first && cluster < end }
}

extension [ClusterRun] {
    /// Appends `run`, growing the last one instead where the two touch.
    mutating func appendMerging(_ run: ClusterRun) {
        if let last, last.end == run.first {
            self[count - 1].count += run.count
        } else {
            append(run)
        }
    }
}
