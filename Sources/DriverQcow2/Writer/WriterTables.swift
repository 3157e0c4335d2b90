import BlockCore

/// The L1 and L2 tables of an image while it is written in one go.
///
/// Only tables that were touched exist. At most `residentMax` of them are in memory: the one that
/// came first is written to a cluster of its own then, and read again should it be touched again.
struct WriterTables {
    private let geometry: Qcow2Geometry
    private let file: any StorageFile
    private let residentMax: Int

    private(set) var l1: [UInt64]
    private var resident: [Int: [UInt64]] = [:]
    /// The indices in `resident`, oldest first, from `oldest` on.
    private var arrivals: [Int] = []
    private var oldest = 0

    init(geometry: Qcow2Geometry, file: any StorageFile) {
        self.geometry = geometry
        self.file = file
        residentMax = max(8, (16 << 20) / Int(geometry.clusterBytes))
        l1 = Array(repeating: 0, count: Int(geometry.l1Count))
    }

    /// Maps `count` guest clusters from `guestOffset` to the entries that `entry` names, which
    /// none may be mapped already. `nextCluster` is where a table that must go to the file goes.
    mutating func map(
        from guestOffset: UInt64, count: Int, nextCluster: inout UInt64,
        entry: (_ index: Int) -> UInt64
    ) throws(BlockError) {
        var done = 0
        while done < count {
            let offset = guestOffset + (UInt64(done) << UInt64(geometry.clusterBits))
            let l1Index = geometry.l1Index(of: offset)
            let first = geometry.l2Index(of: offset)
            let run = min(count - done, geometry.l2EntryCount - first)
            try makeResident(l1Index, nextCluster: &nextCluster)
            for index in 0..<run {
                guard resident[l1Index]![first + index] == 0 else {
                    throw BlockError(
                        .invalid, "write", on: file.path,
                        detail: "the cluster at \(offset) + \(index) clusters is written already")
                }
                resident[l1Index]![first + index] = entry(done + index)
            }
            done += run
        }
    }

    /// Writes all tables that are in memory.
    mutating func writeAll(nextCluster: inout UInt64) throws(BlockError) {
        for l1Index in resident.keys.sorted() {
            try write(l1Index, nextCluster: &nextCluster)
        }
        arrivals = []
        oldest = 0
    }

    private mutating func makeResident(
        _ l1Index: Int, nextCluster: inout UInt64
    ) throws(BlockError) {
        guard resident[l1Index] == nil else { return }
        if resident.count >= residentMax {
            try write(arrivals[oldest], nextCluster: &nextCluster)
            oldest += 1
            if oldest >= 1024 {
                arrivals.removeFirst(oldest)
                oldest = 0
            }
        }
        resident[l1Index] = try read(l1Index)
        arrivals.append(l1Index)
    }

    private func read(_ l1Index: Int) throws(BlockError) -> [UInt64] {
        var entries = [UInt64](repeating: 0, count: geometry.l2EntryCount)
        let offset = l1[l1Index] & Qcow2Layout.offsetMask
        guard offset != 0 else { return entries }
        var bytes = [UInt8](repeating: 0, count: Int(geometry.clusterBytes))
        try bytes.withMutableBytes { (bytes) throws(BlockError) in
            try file.read(at: offset, into: bytes)
            for index in entries.indices {
                entries[index] = UnsafeRawBufferPointer(bytes).bigEndian(at: index * 8)
            }
        }
        return entries
    }

    private mutating func write(_ l1Index: Int, nextCluster: inout UInt64) throws(BlockError) {
        guard let entries = resident.removeValue(forKey: l1Index) else { return }
        if l1[l1Index] == 0 {
            l1[l1Index] = nextCluster << UInt64(geometry.clusterBits) | Qcow2Layout.copied
            nextCluster += 1
        }
        try file.writeNumbers(entries, at: l1[l1Index] & Qcow2Layout.offsetMask)
    }
}
