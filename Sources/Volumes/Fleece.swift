import BlockCore

// What a write of the guest overwrites is kept here until the backup has read it: in memory up to a
// bound, then in a local file without a name up to another. At the second bound, or where the file
// system has no room, keeping fails, and with it the point: a backup can be repeated, a guest
// cannot wait for it. Both bounds are of one volume; all volumes together have the `FleeceBudget`.

/// How much old data a backup may hold back locally.
package struct FleeceLimits: Sendable {
    package var memoryBytes: UInt64 = 64 << 20
    package var spillBytes: UInt64 = 64 << 30
    /// What the file system must keep free: the catalog and images may live there too.
    package var reserveBytes: UInt64 = 1 << 30
    /// Where the spill file goes.
    package var directory: String
    /// What all fleeces together may take.
    package var budget: FleeceBudget

    package init(directory: String, budget: FleeceBudget = FleeceBudget()) {
        self.directory = directory
        self.budget = budget
    }
}

/// Old content of a volume that a job has not read yet.
///
/// It is stored in runs of consecutive blocks, each block at most once, and taken as it was stored.
/// All calls may block on the local file, never on a backup's target.
final class Fleece: Sendable {
    fileprivate struct State {
        /// By the first block of the run. Not in aligned buffers: of 4 KiB each, those take twice
        /// their size.
        var inMemory = SpreadTable<[UInt8]>()
        var memoryBytes: UInt64 = 0
        var inFile = SpreadTable<FleeceSlots>()
        var inFileCount: UInt64 = 0
        var file: HostFile?
        var slotCount: UInt64 = 0
        /// By their length in slots.
        var free: [UInt64: [FleeceSlots]] = [:]
    }

    /// How often the free space of the file system is looked at, in bytes of spilled content.
    private static let reserveStepBytes: UInt64 = 4 << 20
    /// What it takes to know where in the file a run is. There may be very many of them, so that
    /// this memory is counted too.
    private static let indexBytes: UInt64 = 32

    let blockBytes: UInt64
    private let limits: FleeceLimits
    private let state = HostMutex(State())

    init(blockBytes: UInt64, limits: FleeceLimits) {
        self.blockBytes = blockBytes
        self.limits = limits
    }

    deinit {
        state.withLock { state in
            limits.budget.give(
                memoryBytes: state.memoryBytes, spillBytes: state.slotCount * blockBytes)
            MemoryBudget.shared.give(state.inFileCount * Self.indexBytes, for: .fleeces)
        }
    }

    /// Keeps a copy of `content`, which is that of `blocks`, or shorter at the volume's end.
    func store(_ content: BufferSlice, blocks: Range<UInt64>) throws(BlockError) {
        if storeInMemory(content, blocks.lowerBound) { return }
        let slots = try takeSlots(UInt64(blocks.count))
        let file = try spillFile()
        try file.write(at: slots.first * blockBytes, from: content.readOnlyBytes)
        MemoryBudget.shared.take(Self.indexBytes, for: .fleeces)
        state.withLock { state in
            state.inFile[blocks.lowerBound] = slots
            state.inFileCount += 1
        }
    }

    /// Copies the run that begins with `block` to the start of `destination`, no further than that
    /// reaches, and forgets it. Returns of how many blocks it is.
    func take(
        _ block: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> Int {
        if let content = state.withLock({ $0.inMemory.remove(block) }) {
            content.withUnsafeBytes { bytes in
                destination.copyMemory(
                    from: UnsafeRawBufferPointer(rebasing: bytes.prefix(destination.count)))
            }
            giveBackMemory(UInt64(content.count))
            return (content.count + Int(blockBytes) - 1) / Int(blockBytes)
        }
        let (found, file) = state.withLock { ($0.inFile[block], $0.file) }
        guard let slots = found, let file else {
            preconditionFailure("block \(block) was given up without being kept")
        }
        let lengthBytes = min(Int(slots.count * blockBytes), destination.count)
        try file.read(
            at: slots.first * blockBytes,
            into: UnsafeMutableRawBufferPointer(rebasing: destination[..<lengthBytes]))
        giveBack(slots, of: block)
        return Int(slots.count)
    }

    /// Copies the run that begins with `block` to the start of `destination`, no further than that
    /// reaches, and keeps it. Returns of how many blocks it is; nil if it is no more there.
    func copy(
        _ block: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> Int? {
        if let content = state.withLock({ $0.inMemory[block] }) {
            content.withUnsafeBytes { bytes in
                destination.copyMemory(
                    from: UnsafeRawBufferPointer(rebasing: bytes.prefix(destination.count)))
            }
            return (content.count + Int(blockBytes) - 1) / Int(blockBytes)
        }
        let (found, file) = state.withLock { ($0.inFile[block], $0.file) }
        guard let slots = found, let file else { return nil }
        let lengthBytes = min(Int(slots.count * blockBytes), destination.count)
        try file.read(
            at: slots.first * blockBytes,
            into: UnsafeMutableRawBufferPointer(rebasing: destination[..<lengthBytes]))
        // Else its place was given to another run, maybe before it was read. A block is kept once.
        return state.withLock { $0.inFile[block] } == nil ? nil : Int(slots.count)
    }

    /// Forgets the run that begins with `block` without reading it.
    func drop(_ block: UInt64) {
        if let content = state.withLock({ $0.inMemory.remove(block) }) {
            giveBackMemory(UInt64(content.count))
        } else if let slots = state.withLock({ $0.inFile[block] }) {
            giveBack(slots, of: block)
        }
    }

    private func storeInMemory(_ content: BufferSlice, _ block: UInt64) -> Bool {
        let bytes = UInt64(content.count)
        let isTaken = state.withLock { state in
            guard state.memoryBytes + bytes <= limits.memoryBytes,
                limits.budget.takeMemory(bytes)
            else { return false }
            state.memoryBytes += bytes
            return true
        }
        guard isTaken else { return false }
        let copy = [UInt8](content.readOnlyBytes)
        state.withLock { $0.inMemory[block] = copy }
        return true
    }

    private func giveBackMemory(_ bytes: UInt64) {
        state.withLock { $0.memoryBytes -= bytes }
        limits.budget.give(memoryBytes: bytes)
    }

    private func giveBack(_ slots: FleeceSlots, of block: UInt64) {
        state.withLock { state in
            state.inFile[block] = nil
            state.inFileCount -= 1
            state.free[slots.count, default: []].append(slots)
        }
        MemoryBudget.shared.give(Self.indexBytes, for: .fleeces)
    }

    private func takeSlots(_ count: UInt64) throws(BlockError) -> FleeceSlots {
        let (slots, isNew) = try state.withLock {
            (state) throws(BlockError) -> (FleeceSlots, isNew: Bool) in
            if let slots = state.free[count]?.popLast() { return (slots, false) }
            let bytes = count * blockBytes
            if state.slotCount * blockBytes + bytes <= limits.spillBytes,
                limits.budget.takeSpill(bytes)
            {
                state.slotCount += count
                return (FleeceSlots(first: state.slotCount - count, count: count), true)
            }
            guard let slots = state.cutFree(count) else {
                throw full(
                    "its bounds are \(limits.spillBytes) bytes for a volume and "
                        + "\(limits.budget.spillBytes) for all volumes together")
            }
            return (slots, false)
        }
        let offset = slots.first * blockBytes
        if isNew, offset % Self.reserveStepBytes < count * blockBytes { try checkReserve() }
        return slots
    }

    private func checkReserve() throws(BlockError) {
        let freeBytes = try HostDirectory.freeBytes(at: limits.directory)
        let neededBytes = limits.reserveBytes + Self.reserveStepBytes
        guard freeBytes < neededBytes else { return }
        throw full("\(neededBytes) bytes must be free there, \(freeBytes) are")
    }

    private func full(_ detail: String) -> BlockError {
        BlockError(
            .noSpace, "keep what the guest overwrites during the backup", on: limits.directory,
            detail: "\(detail): the backup is given up and the guest goes on; repeat it when "
                + "the guest writes less, to a faster repository, or with more room for this")
    }

    private func spillFile() throws(BlockError) -> HostFile {
        if let file = state.withLock({ $0.file }) { return file }
        let file = try HostFile(temporaryIn: limits.directory)
        return state.withLock { state in
            if let earlier = state.file { return earlier }
            state.file = file
            return file
        }
    }
}

/// Consecutive places of a spill file, of one block each.
private struct FleeceSlots: Sendable {
    /// Eight bytes are enough for both: a run has no more than 64 blocks.
    private let packed: UInt64

    init(first: UInt64, count: UInt64) {
        precondition(count < 1 << 8 && first < 1 << 56)
        packed = first << 8 | count
    }

    var first: UInt64 { packed >> 8 }
    var count: UInt64 { packed & 0xFF }
}

extension Fleece.State {
    /// Cuts `count` slots off a longer run that is free, if there is one.
    fileprivate mutating func cutFree(_ count: UInt64) -> FleeceSlots? {
        guard let longer = free.keys.first(where: { $0 > count && free[$0]?.isEmpty == false }),
            let slots = free[longer]?.popLast()
        else { return nil }
        free[longer - count, default: []].append(
            FleeceSlots(first: slots.first + count, count: longer - count))
        return FleeceSlots(first: slots.first, count: count)
    }
}
