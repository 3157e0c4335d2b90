package import BlockCore
import Volumes

// What is read from a backing image is stored in the image over it, so that it is there the next time.
//
//   read    hold the whole units that the range touches · what the image itself does not hold of them
//           and is not zero: read, store · read the range · release
//   write   hold the units that it touches · write · release
//
// So no copy lands on a newer write that came through this filter. What comes past it does not go
// unordered either: a volume, which guests write through an export of its own, stores by its own
// rule (`Volume.storeBacking`), and a node has one owner.

/// A filter that stores in its child what reads found only below it.
package final class CopyOnRead: BlockFilter {
    package let child: any BlockDevice
    private let ranges = RangeLock()

    /// What is copied at a time.
    private static let pieceBytes: UInt64 = 1 << 20

    package init(_ child: any BlockDevice) { self.child = child }

    package func tryRead(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        if copies {
            try checkInside(
                ByteRange(offset: offset, lengthBytes: UInt64(destination.count)), "read")
            return destination.isEmpty ? .done : .refused
        }
        return try child.tryRead(at: offset, into: destination)
    }

    package func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        let range = ByteRange(offset: offset, lengthBytes: UInt64(destination.count))
        try checkInside(range, "read")
        guard copies, !range.isEmpty else {
            return try await child.read(at: offset, into: destination)
        }
        let units = units(of: range)
        let hold = await ranges.acquire(units)
        defer { ranges.release(hold) }
        try await store(units)
        try await child.read(at: offset, into: destination)
    }

    package func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool {
        let range = ByteRange(offset: offset, lengthBytes: UInt64(source.count))
        try checkInside(range, "write")
        guard let hold = ranges.tryAcquire(units(of: range)) else { return false }
        defer { ranges.release(hold) }
        return try child.tryWrite(at: offset, from: source)
    }

    package func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        let range = ByteRange(offset: offset, lengthBytes: UInt64(source.count))
        try await holding(range, "write") { () async throws(BlockError) in
            try await child.write(at: offset, from: source)
        }
    }

    package func writeZeroes(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
        try await holding(range, "write zeroes") { () async throws(BlockError) in
            try await child.writeZeroes(range, mayUnmap: mayUnmap)
        }
    }

    package func discard(_ range: ByteRange) async throws(BlockError) {
        try await holding(range, "discard") { () async throws(BlockError) in
            try await child.discard(range)
        }
    }

    /// A volume goes on without the filter.
    package func close() async throws(BlockError) {
        if child is Volume { try await child.flush() } else { try await child.close() }
    }

    private var copies: Bool { !child.isReadOnly && child.chainNodeCount > 1 }

    private func holding(
        _ range: ByteRange, _ operation: String, _ body: () async throws(BlockError) -> Void
    ) async throws(BlockError) {
        try checkInside(range, operation)
        let hold = await ranges.acquire(units(of: range))
        defer { ranges.release(hold) }
        try await body()
    }

    private func units(of range: ByteRange) -> ByteRange {
        guard !range.isEmpty else { return range }
        let whole = range.alignedOutward(to: child.allocationUnitBytes)
        return ByteRange(offset: whole.offset, end: min(whole.end, child.lengthBytes))
    }

    private func store(_ range: ByteRange) async throws(BlockError) {
        if let volume = child as? Volume { return try await volume.storeBacking(of: range) }
        for missing in try await missing(in: range) {
            for offset in stride(
                from: missing.offset, to: missing.end, by: Int(pieceBytes))
            {
                let piece = ByteRange(offset: offset, end: min(offset + pieceBytes, missing.end))
                let content = BufferPool.shared.take(Int(piece.lengthBytes))
                    .prefix(Int(piece.lengthBytes))
                try await child.read(at: piece.offset, into: content)
                try await child.write(at: piece.offset, from: content)
            }
        }
    }

    private var pieceBytes: UInt64 { max(Self.pieceBytes, child.allocationUnitBytes) }

    /// What the child holds nothing of, and that is not zeroes anyway, in whole units.
    private func missing(in range: ByteRange) async throws(BlockError) -> [ByteRange] {
        try await child.allExtents(in: range)
            .filter { $0.depth > 0 && !$0.isZero }
            .map { units(of: $0.range) }
    }
}
