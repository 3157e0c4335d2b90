import BlockCore

/// What an L2 entry says about its cluster.
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

/// Reads L2 entries of one image.
struct EntryDecoder: Sendable {
    let path: String
    let geometry: Qcow2Geometry
    let version: UInt32

    /// What `entry` says of its cluster, and where the cluster begins on the host.
    ///
    /// Throws `corrupt` for an entry that no writer makes, or that points beyond `hostEndBytes`.
    @inline(__always)
    func decode(
        _ entry: UInt64, hostEndBytes: UInt64
    ) throws(BlockError) -> (kind: ClusterKind, host: UInt64) {
        if entry == 0 { return (.unallocated, 0) }
        if entry & Qcow2Layout.compressed != 0 { return (.compressed, entry) }
        let host = entry & Qcow2Layout.offsetMask
        if entry & Qcow2Layout.zero != 0 && version >= 3 { return (.zero, 0) }
        guard entry & (Qcow2Layout.l2Reserved | Qcow2Layout.zero) == 0,
            host & (geometry.clusterBytes - 1) == 0, host < hostEndBytes
        else { throw corrupt(entry) }
        if host == 0 { return (.unallocated, 0) }
        return (entry & Qcow2Layout.copied != 0 ? .data : .sharedData, host)
    }

    /// The host clusters that `entry` refers to; nil if none.
    func storage(of entry: UInt64) -> ClusterRun? {
        if entry & Qcow2Layout.compressed != 0 {
            let location = CompressedLocation(entry: entry, clusterBits: geometry.clusterBits)
            let first = location.offset >> UInt64(geometry.clusterBits)
            let last = (location.offset + location.lengthBytes - 1) >> UInt64(geometry.clusterBits)
            return ClusterRun(first: first, count: last - first + 1)
        }
        let host = entry & Qcow2Layout.offsetMask
        guard host != 0 else { return nil }
        return ClusterRun(first: host >> UInt64(geometry.clusterBits), count: 1)
    }

    private func corrupt(_ entry: UInt64) -> BlockError {
        BlockError(
            .corrupt, "map", on: path,
            detail: "the L2 entry 0x\(String(entry, radix: 16)) is invalid; run qemu-img check")
    }
}

/// Consecutive clusters of the host file, by number.
struct ClusterRun: Sendable, Equatable {
    var first: UInt64
    var count: UInt64

    var end: UInt64 { first + count }
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
