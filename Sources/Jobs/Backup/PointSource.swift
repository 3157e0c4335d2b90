import Bitmaps
import BlockCore
import Repository
import Volumes

/// The content that a point takes from a volume.
struct PointSource: Sendable {
    let point: PointInTime
    /// If set, only what differs from the parent is stored.
    let comparison: CellComparison?
    /// Where what differs is marked; used with a comparison only.
    let changed: DirtyBitmap
    let job: Job

    func copy(_ piece: Piece, to writer: any PieceSink) async throws(BlockError) {
        if let failure = point.failure { throw failure }
        guard piece.isZero, try await point.claimZeroes(piece.range) else {
            return try await copyData(piece, to: writer)
        }
        let ranges =
            comparison?.differences(ofZeroes: piece.range, from: piece.parentCells)
            ?? [piece.range]
        for range in ranges where !Mutant.dropZeroes.isActive {
            if comparison != nil { changed.mark(range) }
            try await writer.writeZeroes(range)
        }
    }

    /// A piece that the map called zero may be long: it is read in the same steps as data.
    private func copyData(_ piece: Piece, to writer: any PieceSink) async throws(BlockError) {
        let stepBytes = max(1 << 20, writer.clusterBytes)
        var offset = piece.range.offset
        while offset < piece.range.end {
            let step = ByteRange(offset: offset, end: min(offset + stepBytes, piece.range.end))
            let content = BufferPool.shared.take(Int(stepBytes)).prefix(Int(step.lengthBytes))
            try await job.admit(step.lengthBytes)
            try await point.read(step, into: content) { (error) throws(BlockError) in
                try await job.retry(error, isRead: true)
            }
            for range in differences(of: content, at: step, piece) {
                let part = content.slice(
                    Int(range.offset - step.offset), Int(range.lengthBytes))
                try await writer.write(at: range.offset, from: part)
            }
            offset = step.end
        }
    }

    private func differences(
        of content: BufferSlice, at step: ByteRange, _ piece: Piece
    ) -> [ByteRange] {
        guard let comparison else { return [step] }
        let ranges = comparison.differences(
            of: content, at: step.offset, from: piece.parentCells)
        for range in ranges { changed.mark(range) }
        return ranges
    }
}
