package import BlockCore
import Glibc
import Synchronization

/// A device that is an array of bytes, with a map of what was written.
///
/// The reference for what a driver should do, and a disk for tests that need none.
package final class MemoryDevice: BlockDevice {
    private struct State {
        var bytes: [UInt8]
        /// One flag for each unit.
        var isAllocated: [Bool]
        var flushCount = 0
    }

    package let nodeName: String
    package let lengthBytes: UInt64
    package let isReadOnly: Bool
    package let allocationUnitBytes: UInt64
    private let state: Mutex<State>

    /// A device that holds `bytes`, all of them allocated unless there are none but zeroes.
    package init(
        _ bytes: [UInt8], name: String = "memory", readOnly: Bool = false,
        allocationUnitBytes: UInt64 = 512
    ) {
        nodeName = name
        lengthBytes = UInt64(bytes.count)
        isReadOnly = readOnly
        self.allocationUnitBytes = allocationUnitBytes
        let units = (bytes.count + Int(allocationUnitBytes) - 1) / Int(allocationUnitBytes)
        let isEmpty = bytes.allSatisfy { $0 == 0 }
        state = Mutex(
            State(bytes: bytes, isAllocated: Array(repeating: !isEmpty, count: units)))
    }

    /// A device of zeroes.
    package convenience init(
        lengthBytes: Int, name: String = "memory", allocationUnitBytes: UInt64 = 512
    ) {
        self.init(
            Array(repeating: 0, count: lengthBytes), name: name,
            allocationUnitBytes: allocationUnitBytes)
    }

    /// A copy of the content.
    package var content: [UInt8] { state.withLock { $0.bytes } }

    /// How often it was flushed.
    package var flushCount: Int { state.withLock { $0.flushCount } }

    package func tryRead(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        try checkInside(
            ByteRange(offset: offset, lengthBytes: UInt64(destination.count)), "read")
        let address = UInt(bitPattern: destination.baseAddress)
        state.withLock { state in
            let end = Int(offset) + destination.count
            UnsafeMutableRawBufferPointer(
                start: UnsafeMutableRawPointer(bitPattern: address), count: end - Int(offset)
            ).copyBytes(from: state.bytes[Int(offset)..<end])
        }
        return .done
    }

    package func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool {
        try replace(
            ByteRange(offset: offset, lengthBytes: UInt64(source.count)), "write",
            with: Array(source), allocated: true)
        return true
    }

    package func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        _ = try tryRead(at: offset, into: destination.bytes)
    }

    package func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        _ = try tryWrite(at: offset, from: source.readOnlyBytes)
    }

    package func writeZeroes(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
        try checkInside(range, "write zeroes")
        try replace(
            range, "write zeroes", with: Array(repeating: 0, count: Int(range.lengthBytes)),
            allocated: !mayUnmap)
    }

    package func discard(_ range: ByteRange) async throws(BlockError) {
        try checkInside(range, "discard")
        try replace(
            range, "discard", with: Array(repeating: 0, count: Int(range.lengthBytes)),
            allocated: false)
    }

    package func flush() async throws(BlockError) { state.withLock { $0.flushCount += 1 } }

    package func extents(in range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
        try checkInside(range, "map")
        let isAllocated = state.withLock { $0.isAllocated }
        var extents: [Extent] = []
        var position = range.offset
        while position < range.end {
            let unit = position / allocationUnitBytes
            let end = min((unit + 1) * allocationUnitBytes, range.end)
            let isHole = !isAllocated[Int(unit)]
            var next = extents
            next.appendMerging(
                Extent(
                    range: ByteRange(offset: position, end: end), isZero: isHole, isHole: isHole))
            if next.count > max(limit, 1) { break }
            extents = next
            position = end
        }
        return extents
    }

    package func close() async throws(BlockError) { try await flush() }

    private func replace(
        _ range: ByteRange, _ operation: String, with bytes: [UInt8], allocated: Bool
    ) throws(BlockError) {
        try checkInside(range, operation)
        if isReadOnly { throw BlockError(.readOnly, operation, on: nodeName, range: range) }
        guard !range.isEmpty else { return }
        // Only whole units can lose their storage; the end of the device ends a unit.
        var units = range.alignedOutward(to: allocationUnitBytes)
        if !allocated {
            units = range.alignedInward(to: allocationUnitBytes)
            if range.end == lengthBytes {
                units = ByteRange(
                    offset: units.offset, end: range.end.alignedUp(to: allocationUnitBytes))
            }
        }
        state.withLock { state in
            state.bytes.replaceSubrange(Int(range.offset)..<Int(range.end), with: bytes)
            guard !units.isEmpty else { return }
            let first = Int(units.offset / allocationUnitBytes)
            for unit in first..<Int(units.end / allocationUnitBytes) {
                state.isAllocated[unit] = allocated
            }
        }
    }
}
