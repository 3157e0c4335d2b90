package import BlockCore

/// What a volume reads as at a point, handed out from its beginning to its end: what a comparison
/// goes by. Calls must not overlap; each may take a while.
package final class ContentCursor: Sendable {
    /// The exact length of the volume at the point.
    package let volumeBytes: UInt64
    /// How cells are digested.
    package let algorithm: DigestAlgorithm

    private struct State {
        let content: PointContent
        /// What was read of the content and not handed out yet.
        var rest: ContentPiece?
    }

    private let state: HostMutex<State>
    private let pool: IOPool

    init(_ content: sending PointContent, algorithm: DigestAlgorithm, pool: IOPool) {
        volumeBytes = content.volumeBytes
        self.algorithm = algorithm
        self.pool = pool
        state = HostMutex(State(content: content))
    }

    /// The pieces of `range`, which does not begin before the end of an earlier one. What lies
    /// beyond the volume's end at the point reads as zeroes.
    ///
    /// Pieces of zeroes are cut at the range; the last piece of data may reach beyond it.
    package func pieces(of range: ByteRange) async throws(BlockError) -> [ContentPiece] {
        try await pool.run { [self] () throws(BlockError) in
            try state.withLock { (state) throws(BlockError) in try Self.pieces(of: range, &state) }
        }
    }

    private static func pieces(
        of range: ByteRange, _ state: inout State
    ) throws(BlockError) -> [ContentPiece] {
        var pieces: [ContentPiece] = []
        var position = range.offset
        while position < range.end {
            var next = state.rest
            state.rest = nil
            if next == nil { next = try state.content.next() }
            guard var piece = next else {
                pieces.append(ContentPiece(range: ByteRange(offset: position, end: range.end)))
                break
            }
            guard piece.range.end > position else { continue }
            if piece.digest == nil {
                let end = piece.range.end
                piece.range = ByteRange(offset: position, end: min(end, range.end))
                if end > range.end {
                    state.rest = ContentPiece(range: ByteRange(offset: range.end, end: end))
                }
            }
            pieces.append(piece)
            position = piece.range.end
        }
        return pieces
    }
}
