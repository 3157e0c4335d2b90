/// One thing that the checker found amiss.
package struct Qcow2Finding: Sendable, Equatable {
    /// What kind of damage it is.
    package enum Kind: String, Sendable, CaseIterable {
        /// A cluster counts as used, or as used more often than it is. Costs space only.
        case leak
        /// A cluster has more references than its refcount says: it may be given away.
        case refcountTooLow = "refcount-too-low"
        /// A cluster has more references than refcounts of this image can count.
        case refcountOverflow = "refcount-overflow"
        /// A cluster that holds metadata holds something else, too.
        case overlap
        /// Bits are set that must not be.
        case reservedBits = "reserved-bits"
        /// An offset is no multiple of the cluster size.
        case unaligned
        /// Something is said to be where the file has no bytes.
        case outsideFile = "outside-file"
        /// The flag that allows changes in place contradicts the refcount.
        case copiedFlag = "copied-flag"
        /// The bits about subclusters contradict each other or the entry.
        case subclusters
        /// A version 2 image has an entry that only version 3 knows.
        case version
        /// A refcount block is where none can be, or is shared.
        case refcountBlock = "refcount-block"
        case snapshotTable = "snapshot-table"
        /// A snapshot's L1 table is where none can be.
        case snapshotL1 = "snapshot-l1"
        case bitmaps
        /// A cluster in an external data file is not where the guest has it.
        case dataFile = "data-file"
    }

    package let kind: Kind
    /// Where in the file it is, or points to.
    package let offset: UInt64
    package let detail: String
}

/// What a check found, and what a repair did.
package struct Qcow2CheckReport: Sendable, Equatable {
    /// The three answers of a check.
    package enum Verdict: String, Sendable {
        case clean
        /// Space is lost, and nothing else.
        case leaks
        case corrupt
    }

    /// At most this many findings are kept; the counts below are of all.
    package static let findingsMax = 1000

    package internal(set) var findings: [Qcow2Finding] = []
    /// The kinds of all findings, kept or not.
    package internal(set) var kinds: Set<Qcow2Finding.Kind> = []
    package internal(set) var leakCount: UInt64 = 0
    package internal(set) var corruptionCount: UInt64 = 0
    /// What a repair put right.
    package internal(set) var leaksFixedCount: UInt64 = 0
    package internal(set) var corruptionsFixedCount: UInt64 = 0

    /// Whether the image was not closed by whoever wrote it with lazy refcounts.
    package internal(set) var isMarkedDirty = false
    /// Whether somebody noticed damage, and marked the image so that nobody writes it.
    package internal(set) var isMarkedCorrupt = false

    /// Guest clusters of the image, and those of them that have storage.
    package internal(set) var clusterCount: UInt64 = 0
    package internal(set) var allocatedCount: UInt64 = 0
    package internal(set) var compressedCount: UInt64 = 0
    /// Clusters that do not lie behind their predecessor in the same table.
    package internal(set) var fragmentedCount: UInt64 = 0
    /// The end of the last cluster that has a reference or a refcount.
    package internal(set) var imageEndBytes: UInt64 = 0

    /// Whether all metadata could be followed. What hangs from the rest may look leaked and be in
    /// use, so nothing is freed then.
    package internal(set) var isComplete = true

    package var verdict: Verdict {
        corruptionCount > 0 ? .corrupt : leakCount > 0 ? .leaks : .clean
    }

    /// Counts a finding, `times` over, and keeps it if there is room.
    mutating func add(
        _ kind: Qcow2Finding.Kind, at offset: UInt64, times: UInt64 = 1,
        _ detail: @autoclosure () -> String
    ) {
        kinds.insert(kind)
        if kind == .leak { leakCount += times } else { corruptionCount += times }
        guard findings.count < Self.findingsMax else { return }
        findings.append(Qcow2Finding(kind: kind, offset: offset, detail: detail()))
    }
}
