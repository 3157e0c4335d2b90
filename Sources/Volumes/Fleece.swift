import BlockCore
import Synchronization

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
/// Granules are stored whole, each at most once. All calls may block on the local file, never on
/// a backup's target.
final class Fleece: Sendable {
    private enum Place {
        case memory(AlignedBuffer)
        case file(slot: UInt64)
    }

    private struct State {
        var places: [UInt64: Place] = [:]
        var memoryBytes: UInt64 = 0
        var file: HostFile?
        var slotCount: UInt64 = 0
        var freeSlots: [UInt64] = []
    }

    let granuleBytes: UInt64
    private let limits: FleeceLimits
    private let state = Mutex(State())

    init(granuleBytes: UInt64, limits: FleeceLimits) {
        self.granuleBytes = granuleBytes
        self.limits = limits
    }

    deinit {
        state.withLock { state in
            limits.budget.give(
                memoryBytes: state.memoryBytes, spillBytes: state.slotCount * granuleBytes)
        }
    }

    /// Keeps `content`, one granule long or shorter at the volume's end, which the fleece owns
    /// from now on.
    func store(_ content: BufferSlice, granule: UInt64) throws(BlockError) {
        if storeInMemory(content, granule: granule) { return }
        let slot = try takeSlot()
        if slot % 64 == 0 { try checkReserve() }
        let file = try spillFile()
        try file.write(at: slot * granuleBytes, from: content.readOnlyBytes)
        state.withLock { $0.places[granule] = .file(slot: slot) }
    }

    /// Copies the granule's old content to `destination` and forgets it.
    func take(_ granule: UInt64, into destination: UnsafeMutableRawBufferPointer)
        throws(BlockError)
    {
        let (place, file) = state.withLock { ($0.places.removeValue(forKey: granule), $0.file) }
        switch place {
        case .memory(let buffer):
            destination.copyMemory(
                from: UnsafeRawBufferPointer(start: buffer.base, count: destination.count))
            giveBack(buffer)
        case .file(let slot):
            guard let file else { preconditionFailure("a spilled granule without a spill file") }
            try file.read(at: slot * granuleBytes, into: destination)
            state.withLock { $0.freeSlots.append(slot) }
        case nil:
            preconditionFailure("granule \(granule) was given up without being kept")
        }
    }

    /// Forgets a granule without reading it.
    func drop(_ granule: UInt64) {
        switch state.withLock({ $0.places.removeValue(forKey: granule) }) {
        case .memory(let buffer): giveBack(buffer)
        case .file(let slot): state.withLock { $0.freeSlots.append(slot) }
        case nil: break
        }
    }

    private func storeInMemory(_ content: BufferSlice, granule: UInt64) -> Bool {
        state.withLock { state in
            let bytes = UInt64(content.buffer.capacityBytes)
            guard state.memoryBytes + bytes <= limits.memoryBytes,
                limits.budget.takeMemory(bytes)
            else { return false }
            state.memoryBytes += bytes
            state.places[granule] = .memory(content.buffer)
            return true
        }
    }

    private func giveBack(_ buffer: AlignedBuffer) {
        let bytes = UInt64(buffer.capacityBytes)
        state.withLock { $0.memoryBytes -= bytes }
        limits.budget.give(memoryBytes: bytes)
    }

    private func takeSlot() throws(BlockError) -> UInt64 {
        try state.withLock { (state) throws(BlockError) in
            if let slot = state.freeSlots.popLast() { return slot }
            guard (state.slotCount + 1) * granuleBytes <= limits.spillBytes else {
                throw full("its bound is \(limits.spillBytes) bytes for a volume")
            }
            guard limits.budget.takeSpill(granuleBytes) else {
                throw full(
                    "its bound is \(limits.budget.spillBytes) bytes for all volumes together")
            }
            state.slotCount += 1
            return state.slotCount - 1
        }
    }

    private func checkReserve() throws(BlockError) {
        let freeBytes = try HostDirectory.freeBytes(at: limits.directory)
        let neededBytes = limits.reserveBytes + 64 * granuleBytes
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
