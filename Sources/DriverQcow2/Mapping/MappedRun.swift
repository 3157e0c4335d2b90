/// What an L2 entry says about its cluster, or about one of its subclusters.
enum ClusterKind: UInt8, Sendable {
    /// The backing file's content, or zeroes where there is none.
    case unallocated
    case zero
    /// Stored at a host offset, which nothing else refers to: it may be written in place.
    case data
    /// Stored at a host offset that an internal snapshot refers to, too.
    case sharedData
    case compressed
}

/// Guest bytes that lie one after the other on the host, or are alike for another reason.
struct MappedRun: Sendable {
    var kind: ClusterKind
    /// Where the first byte is: for `data` and `sharedData` the host offset, for `compressed` the
    /// L2 entry itself; else meaningless.
    var host: UInt64
    var lengthBytes: UInt64
}

/// A few runs, in place of an array, which each request would have to allocate.
struct RunList {
    static let capacity = 16

    private var items = InlineArray<16, MappedRun>(
        repeating: MappedRun(kind: .unallocated, host: 0, lengthBytes: 0))
    private(set) var count = 0
    private(set) var lengthBytes: UInt64 = 0

    var isFull: Bool { count == Self.capacity }

    subscript(index: Int) -> MappedRun { items[index] }

    mutating func append(_ run: MappedRun) {
        items[count] = run
        count += 1
        lengthBytes += run.lengthBytes
    }
}
