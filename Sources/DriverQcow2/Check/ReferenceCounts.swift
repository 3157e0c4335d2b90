/// What a cluster of the file is referred to as.
struct ReferenceKind: OptionSet, Sendable {
    let rawValue: UInt16

    /// The content of one guest cluster, or of a piece of one.
    static let data = ReferenceKind(rawValue: 1 << 13)
    /// An L2 table: the L1 tables of snapshots may share it.
    static let table = ReferenceKind(rawValue: 1 << 14)
    /// Metadata to which there is one reference and no other.
    static let exclusive = ReferenceKind(rawValue: 1 << 15)
}

/// References to the clusters of a part of the file: two bytes a cluster, the low 13 bits a number,
/// the others the kinds of reference. Higher numbers are kept aside, those of so many clusters at
/// most: an image that repeats tables in thousands of snapshots could have one for every cluster.
struct ReferenceCounts {
    /// The most clusters that one of these covers, and with that its memory: 64 MiB.
    static let windowMax: UInt64 = 32 << 20
    /// The most numbers that are kept aside: about 32 MiB.
    static let largeMax = 512 << 10

    /// Numbers of the clusters covered.
    let window: Range<UInt64>
    private var cells: [UInt16]
    private var large: [UInt64: UInt64] = [:]
    /// Whether some numbers found no room, and all are void.
    private(set) var isOverflowing = false

    private static let numberMask: UInt16 = 0x1FFF

    init(window: Range<UInt64>) {
        precondition(window.count <= Int(Self.windowMax))
        self.window = window
        cells = Array(repeating: 0, count: window.count)
    }

    /// Counts `times` more references to each of `clusters` that the window holds.
    mutating func add(_ clusters: Range<UInt64>, _ kind: ReferenceKind, times: UInt64) {
        for cluster in clusters.clamped(to: window) {
            let index = Int(cluster - window.lowerBound)
            let cell = cells[index]
            let number = cell & Self.numberMask
            let sum = UInt64(number) + times
            if number != Self.numberMask, sum < UInt64(Self.numberMask) {
                cells[index] = cell | kind.rawValue
                cells[index] += UInt16(times)
            } else {
                cells[index] = cell | kind.rawValue | Self.numberMask
                if let sum = large[cluster] {
                    large[cluster] = sum + times
                } else if large.count < Self.largeMax {
                    large[cluster] = sum
                } else {
                    isOverflowing = true
                }
            }
        }
    }

    /// How many references there are to `cluster`, which the window must hold.
    func count(of cluster: UInt64) -> UInt64 {
        let number = cells[Int(cluster - window.lowerBound)] & Self.numberMask
        return number == Self.numberMask ? large[cluster] ?? 0 : UInt64(number)
    }

    /// The kinds of reference to `cluster`, which the window must hold.
    func kinds(of cluster: UInt64) -> ReferenceKind {
        ReferenceKind(rawValue: cells[Int(cluster - window.lowerBound)] & ~Self.numberMask)
    }

    /// The last cluster with a reference; nil if none has any.
    var last: UInt64? {
        cells.lastIndex { $0 != 0 }.map { window.lowerBound + UInt64($0) }
    }
}
