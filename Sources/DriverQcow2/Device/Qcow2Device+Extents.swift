package import BlockCore

extension Qcow2Device {
    package func extents(in range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
        try checkInside(range, "map")
        return try await withTaskExecutorPreference(pool) { () async throws(BlockError) in
            var extents: [Extent] = []
            var position = range.offset
            while position < range.end, extents.count < max(limit, 1) {
                var runs = RunList()
                cache.end(
                    try cache.begin(ByteRange(offset: position, end: range.end), into: &runs))
                if runs.count == 0 { try await loadTable(for: position) }
                for index in 0..<runs.count {
                    let run = ByteRange(offset: position, lengthBytes: runs[index].lengthBytes)
                    position = try await append(runs[index].kind, run, to: &extents, limit: limit)
                    if position < run.end { break }
                }
            }
            if extents.count > max(limit, 1) { extents.removeLast(extents.count - max(limit, 1)) }
            return extents
        }
    }

    /// Appends what `run` is; returns up to where that is known, perhaps not the end of `run`.
    private func append(
        _ kind: ClusterKind, _ run: ByteRange, to extents: inout [Extent], limit: Int
    ) async throws(BlockError) -> UInt64 {
        switch kind {
        case .data, .sharedData, .compressed:
            extents.appendMerging(Extent(range: run, isZero: false, isHole: false))
        case .zero:
            extents.appendMerging(Extent(range: run, isZero: true, isHole: true))
        case .unallocated:
            let held = UInt64(bytesInBacking(run))
            if held > 0, let backing {
                let below = try await backing.extents(
                    in: ByteRange(offset: run.offset, lengthBytes: held), limit: max(limit, 1))
                for var extent in below {
                    extent.depth += 1
                    extents.appendMerging(extent)
                }
                let known = below.last?.range.end ?? run.offset
                guard known == run.offset + held else { return known }
            }
            extents.appendMerging(
                Extent(
                    range: ByteRange(offset: run.offset + held, end: run.end), isZero: true,
                    isHole: true, depth: depthOfBase))
        }
        return run.end
    }
}
