// Some storage takes whole units only: a file under O_DIRECT, an NBD server that asks for blocks of
// some size. What a request has of a unit in part is then read, changed and written as a whole.
//
// Two requests that share a unit share no byte of it, or their caller would have ordered them. So
// only those that change a unit in part can hurt each other, and only they take its lock: a
// request that covers the whole unit overlaps every byte of it.

/// What reads and writes whole units only. Offsets and counts are multiples of the unit, and the
/// memory is page-aligned or a unit's multiple beyond that.
package protocol AlignedStorage: Sendable {
    func readAligned(at offset: UInt64, into destination: BufferSlice) async throws(BlockError)
    func writeAligned(at offset: UInt64, from source: BufferSlice) async throws(BlockError)
}

/// Makes requests of any offset and length out of requests for whole units.
package final class AlignedAccess<Storage: AlignedStorage>: Sendable {
    private let storage: Storage
    /// A power of two.
    private let unitBytes: UInt64
    /// What a piece that must be copied measures at most.
    private let pieceBytes: UInt64
    /// Each for the units whose number has its remainder.
    private let locks: [AsyncLock]

    package init(_ storage: Storage, unitBytes: UInt64) {
        precondition(unitBytes.isPowerOfTwo)
        self.storage = storage
        self.unitBytes = unitBytes
        pieceBytes = max(1 << 20, unitBytes)
        locks = (0..<64).map { _ in AsyncLock() }
    }

    /// Fills `destination` from `offset`.
    package func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        if isAligned(offset, destination) {
            return try await storage.readAligned(at: offset, into: destination)
        }
        var done = 0
        while done < destination.count {
            let wanted = ByteRange(
                offset: offset + UInt64(done),
                lengthBytes: min(UInt64(destination.count - done), pieceBytes - unitBytes + 1))
            let outer = wanted.alignedOutward(to: unitBytes)
            let bounce = bounce(outer)
            try await storage.readAligned(at: outer.offset, into: bounce)
            destination.slice(done, Int(wanted.lengthBytes)).bytes.copyMemory(
                from: UnsafeRawBufferPointer(
                    bounce.slice(
                        Int(wanted.offset - outer.offset), Int(wanted.lengthBytes)
                    ).bytes))
            done += Int(wanted.lengthBytes)
        }
    }

    /// Writes `source` at `offset`.
    package func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        if isAligned(offset, source) {
            return try await storage.writeAligned(at: offset, from: source)
        }
        var done = 0
        while done < source.count {
            let position = offset + UInt64(done)
            let rest = UInt64(source.count - done)
            let inUnit = position % unitBytes
            var count = min(rest, unitBytes - inUnit)
            if count < unitBytes {
                try await change(position, source.slice(done, Int(count)))
            } else {
                count = min(rest, pieceBytes).alignedDown(to: unitBytes)
                let part = source.slice(done, Int(count))
                if isAligned(position, part) {
                    try await storage.writeAligned(at: position, from: part)
                } else {
                    let bounce = bounce(ByteRange(offset: position, lengthBytes: count))
                    bounce.bytes.copyMemory(from: part.readOnlyBytes)
                    try await storage.writeAligned(at: position, from: bounce)
                }
            }
            done += Int(count)
        }
    }

    /// Changes a part of one unit.
    private func change(_ offset: UInt64, _ part: BufferSlice) async throws(BlockError) {
        let start = offset.alignedDown(to: unitBytes)
        let lock = locks[Int(start / unitBytes % UInt64(locks.count))]
        try await lock.withLock { () async throws(BlockError) in
            let unit = bounce(ByteRange(offset: start, lengthBytes: unitBytes))
            try await storage.readAligned(at: start, into: unit)
            unit.slice(Int(offset - start), part.count).bytes.copyMemory(from: part.readOnlyBytes)
            try await storage.writeAligned(at: start, from: unit)
        }
    }

    private func bounce(_ range: ByteRange) -> BufferSlice {
        BufferPool.shared.take(Int(range.lengthBytes)).prefix(Int(range.lengthBytes))
    }

    private func isAligned(_ offset: UInt64, _ slice: BufferSlice) -> Bool {
        offset % unitBytes == 0 && UInt64(slice.count) % unitBytes == 0
            && UInt64(slice.offset) % min(unitBytes, 4096) == 0
    }
}
