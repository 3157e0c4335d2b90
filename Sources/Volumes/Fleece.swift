import BlockCore
import Synchronization

/// How much old data a backup may hold back locally.
package struct FleeceLimits: Sendable {
    package var memoryBytes: UInt64 = 64 << 20
    package var spillBytes: UInt64 = 64 << 30
    /// What the file system must keep free: the catalog and images may live there too.
    package var reserveBytes: UInt64 = 1 << 30
    /// Where the spill file goes.
    package var directory: String

    package init(directory: String) {
        self.directory = directory
    }
}

/// Old content of a volume that a job has not read yet: in memory up to a bound, then in a local
/// file without a name.
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

    /// Keeps `content`, one granule long or shorter at the volume's end, which the fleece owns
    /// from now on.
    func store(_ content: BufferSlice, granule: UInt64) throws(BlockError) {
        let spill: (HostFile?, UInt64)? = state.withLock { state in
            let bytes = UInt64(content.buffer.capacityBytes)
            if state.memoryBytes + bytes <= limits.memoryBytes {
                state.memoryBytes += bytes
                state.places[granule] = .memory(content.buffer)
                return nil
            }
            if let slot = state.freeSlots.popLast() { return (state.file, slot) }
            state.slotCount += 1
            return (state.file, state.slotCount - 1)
        }
        guard let (openFile, slot) = spill else { return }
        guard (slot + 1) * granuleBytes <= limits.spillBytes else {
            throw BlockError(
                .noSpace, "keep old data for the backup", on: limits.directory,
                detail: "the fleece is at its bound of \(limits.spillBytes) bytes")
        }
        if slot % 64 == 0 { try checkReserve() }
        let file = if let openFile { openFile } else { try openSpillFile() }
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
            state.withLock { $0.memoryBytes -= UInt64(buffer.capacityBytes) }
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
        state.withLock { state in
            switch state.places.removeValue(forKey: granule) {
            case .memory(let buffer): state.memoryBytes -= UInt64(buffer.capacityBytes)
            case .file(let slot): state.freeSlots.append(slot)
            case nil: break
            }
        }
    }

    private func checkReserve() throws(BlockError) {
        guard try HostDirectory.freeBytes(at: limits.directory) > limits.reserveBytes else {
            throw BlockError(
                .noSpace, "keep old data for the backup", on: limits.directory,
                detail: "less than \(limits.reserveBytes) bytes are free: make room there")
        }
    }

    private func openSpillFile() throws(BlockError) -> HostFile {
        let file = try HostFile(temporaryIn: limits.directory)
        return state.withLock { state in
            if let earlier = state.file { return earlier }
            state.file = file
            return file
        }
    }
}
