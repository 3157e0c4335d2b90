package import BlockCore

// A point in time as a device, for who reads it again and again: an export, or an image that has it as
// its backing. Nothing is claimed by that.
//
// The source is read first, then what became of each granule is looked at: a block that no write has
// kept by then was old data when it was read. A kept one is in the fleece, or a mover has taken it to
// its target and forgets it here only after it is there: who misses it in one place looks again.

/// The content of a point in time; read-only.
package final class PointView: BlockDevice {
    private let point: PointInTime
    /// Where a mover takes what was kept.
    private let target: (any BlockDevice)?

    /// How far zeroes are looked at in one answer about extents.
    private static let zeroesMax: UInt64 = 1 << 30

    package init(_ point: PointInTime, target: (any BlockDevice)? = nil) {
        self.point = point
        self.target = target
    }

    package var nodeName: String { point.source.nodeName }
    package var lengthBytes: UInt64 { point.lengthBytes }
    package var isReadOnly: Bool { true }
    package var allocationUnitBytes: UInt64 { point.source.allocationUnitBytes }
    package var chainNodeCount: Int { point.source.chainNodeCount }

    package func tryRead(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        let range = ByteRange(offset: offset, lengthBytes: UInt64(destination.count))
        try checkInside(range, "read")
        guard try point.source.tryRead(at: offset, into: destination) == .done else {
            return .refused
        }
        return point.isUntouched(range) ? .done : .refused
    }

    package func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        let range = ByteRange(offset: offset, lengthBytes: UInt64(destination.count))
        try checkInside(range, "read")
        guard !range.isEmpty else { return }
        let outer = range.alignedOutward(to: point.blockBytes)
        let blocks = ByteRange(offset: outer.offset, end: min(outer.end, lengthBytes))
        guard blocks != range else { return try await readBlocks(range, into: destination) }
        let content = BufferPool.shared.take(Int(blocks.lengthBytes))
            .prefix(Int(blocks.lengthBytes))
        try await readBlocks(blocks, into: content)
        destination.bytes.copyMemory(
            from: content.slice(Int(offset - blocks.offset), destination.count).readOnlyBytes)
    }

    package func extents(in range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
        try checkInside(range, "map")
        var result: [Extent] = []
        for extent in try await point.source.extents(in: range, limit: limit) {
            guard extent.isZero else {
                result.append(
                    Extent(range: extent.range, isZero: false, isHole: false, depth: extent.depth))
                continue
            }
            let shown = ByteRange(
                offset: extent.range.offset,
                end: min(extent.range.end, extent.range.offset + Self.zeroesMax))
            for (part, isUntouched) in point.untouchedRuns(of: shown) {
                result.appendMerging(
                    isUntouched
                        ? Extent(
                            range: part, isZero: true, isHole: extent.isHole, depth: extent.depth)
                        : Extent(range: part, isZero: false, isHole: false, depth: extent.depth))
            }
            if shown != extent.range { break }
        }
        return Array(result.prefix(max(limit, 1)))
    }

    package func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool { throw refusal("write") }

    package func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        throw refusal("write")
    }

    package func writeZeroes(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
        throw refusal("write zeroes")
    }

    package func discard(_ range: ByteRange) async throws(BlockError) { throw refusal("discard") }

    package func flush() async throws(BlockError) {}

    package func close() async throws(BlockError) {}

    private func refusal(_ operation: String) -> BlockError {
        BlockError(.readOnly, operation, on: nodeName, detail: "a point in time does not change")
    }

    /// Reads whole blocks.
    private func readBlocks(
        _ range: ByteRange, into content: BufferSlice
    ) async throws(BlockError) {
        try await point.source.read(at: range.offset, into: content)
        for granule in point.granules(of: range) {
            while try await !complete(granule, of: range, in: content) {}
        }
    }

    /// Puts what was kept of a granule over what was read from the source; false if it was on its way
    /// to the mover's target meanwhile.
    private func complete(
        _ granule: UInt64, of range: ByteRange, in content: BufferSlice
    ) async throws(BlockError) -> Bool {
        let found = try point.look(at: granule)
        guard !found.isUntouched else { return true }
        let part = found.range.intersection(range)
        let place = content.slice(Int(part.offset - range.offset), Int(part.lengthBytes))
        if found.isZero, !found.isOwed {
            for run in found.runs(of: ~found.kept, in: part, point.blockBytes) {
                place.slice(Int(run.offset - part.offset), Int(run.lengthBytes))
                    .bytes.initializeMemory(as: UInt8.self, repeating: 0)
            }
        }
        if let target {
            for run in found.runs(of: found.moved, in: part, point.blockBytes) {
                try await target.read(
                    at: run.offset,
                    into: place.slice(Int(run.offset - part.offset), Int(run.lengthBytes)))
            }
        }
        let here = found.runs(of: found.kept & ~found.moved, in: part, point.blockBytes)
        guard !here.isEmpty else { return true }
        let whole = BufferPool.shared.take(Int(found.range.lengthBytes))
            .prefix(Int(found.range.lengthBytes))
        guard try point.copyKept(found, into: whole) else { return false }
        for run in here {
            place.slice(Int(run.offset - part.offset), Int(run.lengthBytes)).bytes.copyMemory(
                from: whole.slice(
                    Int(run.offset - found.range.offset), Int(run.lengthBytes)
                ).readOnlyBytes)
        }
        return true
    }
}
