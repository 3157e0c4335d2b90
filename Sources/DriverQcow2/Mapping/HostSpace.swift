import BlockCore

/// Where in an image file there can be anything that metadata refers to.
struct HostSpace: Sendable {
    /// The end of the file, rounded up: its last cluster may be there in part.
    var endBytes: UInt64
    /// What counts as used and was beyond the end of the file when it was opened, because the file
    /// was cut off: it was lost, and will not be there though the file may grow.
    let lost: ByteRange

    /// Whether all of `range` can be there.
    func holds(_ range: ByteRange) -> Bool {
        range.end <= endBytes && (lost.isEmpty || !range.overlaps(lost))
    }
}
