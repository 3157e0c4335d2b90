import BlockCore
import Synchronization

// The refcount table and its blocks, written through. All of it blocks.
//
// Callers change refcounts one at a time (`ClusterAllocator` sees to it); the mutex only makes
// that safe should it fail. What must be durable when is the caller's concern as well.

/// How many references the clusters of a host file have, as the file says.
final class Refcounts: Sendable {
    private struct State {
        /// Host offsets of refcount blocks, 0 where there is none.
        var table: [UInt64]
        var tableOffset: UInt64
        var blocks: [Int: RefcountBlock] = [:]
        /// The memory taken for blocks beyond the least.
        var takenBytes: UInt64 = 0
        /// The first cluster that no part of the image reaches; new clusters come from here.
        var endCluster: UInt64
        /// What counted as used beyond the end of the file: it was cut off, and is left alone.
        var lost = ClusterRun(first: 0, count: 0)
    }

    private static let cachedBytesMax = 4 << 20
    /// How many blocks are kept whatever the rest of the agent needs.
    private static let blocksLeast = 2

    let geometry: Qcow2Geometry
    private let file: any StorageFile
    private let regions: MetadataRegions
    private let damage: Damage
    private let order: Int
    private let countsPerBlock: UInt64
    private let blocksMax: Int
    private let budget: MemoryBudget
    private let state: Mutex<State>

    /// Takes `table`, read from the file, and checks that the metadata that the header names is
    /// counted.
    init(
        file: any StorageFile, header: Qcow2Header, table: [UInt64], regions: MetadataRegions,
        damage: Damage, budget: MemoryBudget = .shared
    ) throws(BlockError) {
        self.budget = budget
        geometry = header.geometry
        self.file = file
        self.regions = regions
        self.damage = damage
        order = header.refcountOrder
        countsPerBlock = (header.clusterBytes * 8) >> UInt64(order)
        blocksMax = max(Self.blocksLeast, Self.cachedBytesMax / Int(header.clusterBytes))
        let fileEnd = geometry.clusters(for: try file.sizeBytes())
        let first = State(
            table: table, tableOffset: header.refcountTableOffset, endCluster: fileEnd)
        state = Mutex(first)

        try checkCounted(0, "header")
        try checkCounted(header.refcountTableOffset, "refcount table")
        if header.l1Count > 0 { try checkCounted(header.l1Offset, "L1 table") }
        let end = max(fileEnd, try countedEnd())
        guard end <= Qcow2Layout.offsetMask >> UInt64(geometry.clusterBits) else {
            throw BlockError(
                .corrupt, "open for writing", on: file.path,
                detail: "cluster \(end - 1) counts as used; run qemu-img check -r all")
        }
        state.withLock { state in
            state.endCluster = end
            state.lost = ClusterRun(first: fileEnd, count: end - fileEnd)
        }
    }

    deinit { state.withLock { dropBlocks(&$0) } }

    /// The first cluster beyond all that the image uses.
    var endCluster: UInt64 { state.withLock { $0.endCluster } }

    /// Clusters that count as used and that the file did not have when it was opened.
    var lost: ClusterRun { state.withLock { $0.lost } }

    /// Up to `limit` clusters with a refcount of zero, from `start` on, below the end of the image.
    /// The second value is where the search stopped.
    func free(from start: UInt64, limit: UInt64) throws(BlockError) -> ([ClusterRun], UInt64) {
        try state.withLock { (state) throws(BlockError) in
            var runs: [ClusterRun] = []
            var found: UInt64 = 0
            var cluster = start
            let tableEnd = UInt64(state.table.count) * countsPerBlock
            while cluster < min(state.endCluster, tableEnd), found < limit {
                let blockEnd = min(
                    (cluster / countsPerBlock + 1) * countsPerBlock, state.endCluster)
                // Clusters without a block are left alone: giving them one takes clusters.
                guard let block = try block(Int(cluster / countsPerBlock), &state) else {
                    cluster = blockEnd
                    continue
                }
                while cluster < blockEnd, found < limit {
                    if block[Int(cluster % countsPerBlock)] == 0 && !state.lost.contains(cluster) {
                        runs.appendMerging(ClusterRun(first: cluster, count: 1))
                        found += 1
                    }
                    cluster += 1
                }
            }
            return (runs, cluster)
        }
    }

    /// Sets the refcounts of `run` to one, durably. Those without a block are left to `writeBlock`.
    func setOne(_ run: ClusterRun) throws(BlockError) {
        try state.withLock { (state) throws(BlockError) in
            _ = try change(run, &state, durably: true) { _, _ in 1 }
        }
    }

    /// The largest refcount that the width of the image's refcounts allows.
    var countMax: UInt64 { order == 6 ? .max : (1 << (1 << UInt64(order))) - 1 }

    /// Sets the refcount of each cluster from `first` on to what `counts` says, durably.
    func set(_ counts: [UInt64], from first: UInt64) throws(BlockError) {
        try state.withLock { (state) throws(BlockError) in
            let run = ClusterRun(first: first, count: UInt64(counts.count))
            _ = try change(run, &state, durably: true) { cluster, _ in
                counts[Int(cluster - first)]
            }
        }
    }

    /// Takes one reference from each cluster of `run`; returns those that have none any more.
    func lower(_ run: ClusterRun) throws(BlockError) -> [ClusterRun] {
        try state.withLock { (state) throws(BlockError) in
            try change(run, &state, durably: false) { $1 == 0 ? 0 : $1 - 1 }
        }
    }

    /// The numbers of the blocks that `run` needs and that do not exist.
    func missingBlocks(for run: ClusterRun) -> [Int] {
        state.withLock { state in
            (Int(run.first / countsPerBlock)...Int((run.end - 1) / countsPerBlock)).filter {
                $0 >= state.table.count || state.table[$0] == 0
            }
        }
    }

    /// How many clusters a table takes that has room for block `number` and as many again; 0 if
    /// the present one has room for it.
    func tableClusters(forBlock number: Int) -> UInt64 {
        state.withLock { state in
            if number < state.table.count { return 0 }
            return geometry.clusters(for: UInt64(number + 1) * 8 * 2)
        }
    }

    /// Writes a new block durably, to be at cluster `host`, that counts one for each cluster of
    /// `used`. It counts for nothing before `link`.
    func writeBlock(_ number: Int, at host: UInt64, used: ClusterRun) throws(BlockError) {
        var block = RefcountBlock(
            bytes: Array(repeating: 0, count: Int(geometry.clusterBytes)), order: order)
        let first = UInt64(number) * countsPerBlock
        let range = ByteRange(offset: used.first, end: used.end)
            .intersection(ByteRange(offset: first, lengthBytes: countsPerBlock))
        for cluster in range.offset..<range.end { block[Int(cluster - first)] = 1 }
        try block.bytes.withBytes { (bytes) throws(BlockError) in
            try file.writeDurably(at: host << UInt64(geometry.clusterBits), from: bytes)
        }
    }

    /// Enters blocks into the table, durably.
    func link(_ blocks: [(number: Int, host: UInt64)]) throws(BlockError) {
        try state.withLock { (state) throws(BlockError) in
            for (number, host) in blocks {
                let offset = host << UInt64(geometry.clusterBits)
                var entry = [UInt8](repeating: 0, count: 8)
                entry.withUnsafeMutableBytes { $0.storeBigEndian(offset, at: 0) }
                try damage.replace(at: state.tableOffset + UInt64(number * 8), with: entry)
                state.table[number] = offset
                regions.add(ClusterRun(first: host, count: 1), .refcountBlock)
            }
        }
    }

    /// Writes a larger table durably, to be at cluster `host`, that names `blocks`, too. It counts
    /// for nothing before `switchTable`.
    func writeTable(
        at host: ClusterRun, blocks: [(number: Int, host: UInt64)]
    ) throws(BlockError) -> [UInt64] {
        var table = state.withLock { $0.table }
        let entries = Int(host.count * geometry.clusterBytes / 8)
        table += Array(repeating: 0, count: entries - table.count)
        for (number, host) in blocks { table[number] = host << UInt64(geometry.clusterBits) }
        try file.writeNumbers(
            table, at: host.first << UInt64(geometry.clusterBits), durably: true)
        return table
    }

    /// Has the header name the table at cluster `host`, durably; returns where the old one was.
    func switchTable(to host: ClusterRun, _ table: [UInt64]) throws(BlockError) -> ClusterRun {
        let offset = host.first << UInt64(geometry.clusterBits)
        var field = [UInt8](repeating: 0, count: 12)
        // The two fields lie side by side: one write within a sector changes both or neither.
        field.withUnsafeMutableBytes { field in
            field.storeBigEndian(offset, at: 0)
            field.storeBigEndian(UInt32(host.count), at: 8)
        }
        try damage.replace(at: UInt64(Qcow2Layout.Field.refcountTableOffset), with: field)
        return state.withLock { state in
            let old = ClusterRun(
                first: state.tableOffset >> UInt64(geometry.clusterBits),
                count: geometry.clusters(for: UInt64(state.table.count * 8)))
            regions.remove(old)
            regions.add(host, .refcountTable)
            for block in table where block != 0 {
                let cluster = ClusterRun(first: block >> UInt64(geometry.clusterBits), count: 1)
                if regions.firstKind(in: cluster) == nil { regions.add(cluster, .refcountBlock) }
            }
            state.table = table
            state.tableOffset = offset
            return old
        }
    }

    /// Moves the end of the image after the clusters before `end` were counted.
    func setEnd(_ end: UInt64) { state.withLock { $0.endCluster = end } }

    /// Drops what is in memory, after a change that failed half-way.
    func forgetBlocks() { state.withLock { $0.blocks = [:] } }

    /// The first cluster beyond all that have references.
    func countedEnd() throws(BlockError) -> UInt64 {
        try state.withLock { (state) throws(BlockError) in
            for number in state.table.indices.reversed() where state.table[number] != 0 {
                guard let block = try block(number, &state) else { continue }
                if let last = (0..<block.count).last(where: { block[$0] != 0 }) {
                    return UInt64(number) * countsPerBlock + UInt64(last) + 1
                }
            }
            return 0
        }
    }

    private func checkCounted(_ offset: UInt64, _ name: String) throws(BlockError) {
        let cluster = offset >> UInt64(geometry.clusterBits)
        let count = try state.withLock { (state) throws(BlockError) -> UInt64 in
            let block = try block(Int(cluster / countsPerBlock), &state)
            return block?[Int(cluster % countsPerBlock)] ?? 0
        }
        guard count > 0 else {
            throw BlockError(
                .corrupt, "open for writing", on: file.path,
                detail: "the \(name) has a refcount of zero; run qemu-img check -r all")
        }
    }

    private func block(_ number: Int, _ state: inout State) throws(BlockError) -> RefcountBlock? {
        if let block = state.blocks[number] { return block }
        guard number < state.table.count, state.table[number] != 0 else { return nil }
        let offset = state.table[number]
        guard offset & Qcow2Layout.refcountTableReserved == 0, offset % geometry.clusterBytes == 0,
            offset >> UInt64(geometry.clusterBits) < state.endCluster,
            !state.lost.contains(offset >> UInt64(geometry.clusterBits))
        else {
            throw damage.found(
                "read a refcount block", "block \(number) is said to be at \(offset)")
        }
        let cluster = ClusterRun(first: offset >> UInt64(geometry.clusterBits), count: 1)
        if let kind = regions.firstKind(in: cluster), kind != .refcountBlock {
            throw damage.found(
                "read a refcount block", "block \(number) at \(offset) overlaps the \(kind.name)")
        }
        var bytes = [UInt8](repeating: 0, count: Int(geometry.clusterBytes))
        try bytes.withMutableBytes { (bytes) throws(BlockError) in
            try file.read(at: offset, into: bytes)
        }
        if state.blocks.count >= blocksMax || !takeRoom(&state) { dropBlocks(&state) }
        let block = RefcountBlock(bytes: bytes, order: order)
        state.blocks[number] = block
        return block
    }

    /// Whether one block more may be kept; its memory is taken then.
    private func takeRoom(_ state: inout State) -> Bool {
        guard state.blocks.count >= Self.blocksLeast else { return true }
        guard budget.tryTake(geometry.clusterBytes, for: .caches) else { return false }
        state.takenBytes += geometry.clusterBytes
        return true
    }

    private func dropBlocks(_ state: inout State) {
        state.blocks = [:]
        budget.give(state.takenBytes, for: .caches)
        state.takenBytes = 0
    }

    /// Changes the refcounts of `run`, one write a block; returns the clusters that come to zero.
    private func change(
        _ run: ClusterRun, _ state: inout State, durably: Bool,
        to next: (_ cluster: UInt64, _ count: UInt64) -> UInt64
    ) throws(BlockError) -> [ClusterRun] {
        var zeroed: [ClusterRun] = []
        var cluster = run.first
        while cluster < run.end {
            let number = Int(cluster / countsPerBlock)
            let end = min(run.end, UInt64(number + 1) * countsPerBlock)
            guard var block = try block(number, &state) else {
                cluster = end
                continue
            }
            let indices = Int(cluster % countsPerBlock)..<Int((end - 1) % countsPerBlock) + 1
            state.blocks[number] = nil
            for index in indices {
                let before = block[index]
                block[index] = next(cluster + UInt64(index - indices.lowerBound), before)
                if before != 0 && block[index] == 0 {
                    zeroed.appendMerging(
                        ClusterRun(first: cluster + UInt64(index - indices.lowerBound), count: 1))
                }
            }
            let changed = block.byteRange(of: indices)
            let offset = state.table[number] + UInt64(changed.lowerBound)
            try block.bytes.withBytes { (bytes) throws(BlockError) in
                let bytes = UnsafeRawBufferPointer(rebasing: bytes[changed])
                if durably {
                    try file.writeDurably(at: offset, from: bytes)
                } else {
                    try file.write(at: offset, from: bytes)
                }
            }
            state.blocks[number] = block
            cluster = end
        }
        return zeroed
    }
}
