import BlockCore

// Requests that concern a whole disk come in one header. Zeroes, discards and warming a cache are
// done in pieces, whatever the length: between two of them the pool's thread is free for others,
// and the device for others' requests on the rest of the range. A failure tells up to where it went
// well.

/// A request that the now face could not answer, with all it needs to be carried out later.
struct NBDLaterRequest: Sendable {
    /// What is left to do.
    enum Work: Sendable {
        /// The first `doneBytes` are there.
        case read(BufferSlice, doneBytes: Int)
        case write(BufferSlice)
        /// The first `doneBytes` are written.
        case restOfWrite(BufferSlice, doneBytes: Int, any GradualWrite)
        /// The data is written; only the flush that was asked with it is missing.
        case flush
        case writeZeroes(mayUnmap: Bool)
        case discard
        case cache
        case blockStatus(NBDStatusQuery)
    }

    var request: NBDRequest
    var work: Work

    /// What the request holds of the connection's credits.
    var creditBytes: Int {
        switch work {
        case .read(let slice, _), .write(let slice), .restOfWrite(let slice, _, _):
            slice.buffer.capacityBytes
        case .cache: Int(min(request.lengthBytes, NBDSession.cachePieceBytes))
        case .blockStatus(let query): query.replyBytesMax
        case .flush, .writeZeroes, .discard: 0
        }
    }
}

extension NBDSession {
    /// What is read at once to warm a cache.
    static let cachePieceBytes: UInt64 = 1 << 20
    /// What is zeroed or discarded at once.
    static let zeroPieceBytes: UInt64 = 64 << 20

    /// Carries `later` out on the later face, on a thread of the guests' pool, and posts the
    /// reply. Its credits must have been taken.
    func start(_ later: NBDLaterRequest) {
        Task(executorPreference: IOPool.guest) { [self] in
            channel.post([await reply(to: later)])
        }
    }

    /// Carries `later` out and returns what to answer.
    func reply(to later: NBDLaterRequest) async -> NBDReply {
        let request = later.request
        let credit = later.creditBytes
        let start = ContinuousClock.now
        export.requestWaits()
        defer { export.requestEnded(after: ContinuousClock.now - start) }
        do throws(NBDFailure) {
            switch later.work {
            case .blockStatus(let query):
                let contexts = try await status(of: request, query)
                return NBDReply(codec.blockStatus(contexts, request), creditBytes: credit)
            case .read(let slice, let doneBytes):
                try await translated { () throws(BlockError) in
                    try await device.read(
                        at: request.offset + UInt64(doneBytes),
                        into: slice.slice(doneBytes, slice.count - doneBytes))
                }
                return readReply(request, slice)
            case .write, .restOfWrite, .flush, .writeZeroes, .discard, .cache:
                try await perform(later)
                return NBDReply(headBytes: codec.successBytes, creditBytes: credit) {
                    codec.putSuccess(request, at: $0)
                }
            }
        } catch {
            report(error, of: request)
            return NBDReply(codec.failure(error, request), creditBytes: credit)
        }
    }

    /// What to answer to a read that the now face has begun, if that is there by now; else `read`
    /// is told how much of it is.
    func replyNow(to read: inout NBDLaterRequest) -> NBDReply? {
        guard case .read(let slice, let doneBytes) = read.work else { return nil }
        let rest = slice.slice(doneBytes, slice.count - doneBytes)
        do throws(BlockError) {
            switch try device.tryRead(
                at: read.request.offset + UInt64(doneBytes), into: rest.bytes)
            {
            case .done: return readReply(read.request, slice)
            case .begun(let more): read.work = .read(slice, doneBytes: doneBytes + more)
            case .refused: break
            }
            return nil
        } catch {
            return NBDReply(
                codec.failure(NBDFailure(error), read.request), creditBytes: read.creditBytes)
        }
    }

    private func readReply(_ request: NBDRequest, _ slice: BufferSlice) -> NBDReply {
        NBDReply(
            headBytes: codec.readHeadBytes, payload: slice,
            creditBytes: slice.buffer.capacityBytes
        ) { codec.putReadHead(request, at: $0) }
    }

    private func status(
        of request: NBDRequest, _ query: NBDStatusQuery
    ) async throws(NBDFailure) -> [(id: UInt32, runs: [NBDStatusRun])] {
        do throws(BlockError) {
            return try await status(query, request)
        } catch {
            throw NBDFailure(error)
        }
    }

    private func perform(_ later: NBDLaterRequest) async throws(NBDFailure) {
        let range = later.request.range
        var mustFlush = later.request.flags.contains(.fua)
        switch later.work {
        case .write(let slice):
            try await translated { () throws(BlockError) in
                try await device.write(at: range.offset, from: slice)
            }
        case .restOfWrite(let slice, let doneBytes, let write):
            defer { write.end() }
            try await translated { () throws(BlockError) in
                try await write.write(
                    at: range.offset + UInt64(doneBytes),
                    from: slice.slice(doneBytes, slice.count - doneBytes))
            }
        case .writeZeroes(let mayUnmap):
            try await inPieces(range, Self.zeroPieceBytes) { (piece) throws(BlockError) in
                try await device.writeZeroes(piece, mayUnmap: mayUnmap)
            }
        case .discard:
            try await inPieces(range, Self.zeroPieceBytes) { (piece) throws(BlockError) in
                try await device.discard(piece)
            }
        case .cache:
            let buffer = BufferPool.shared.take(Int(min(Self.cachePieceBytes, range.lengthBytes)))
            try await inPieces(range, Self.cachePieceBytes) { (piece) throws(BlockError) in
                try await device.read(
                    at: piece.offset, into: buffer.prefix(Int(piece.lengthBytes)))
            }
            mustFlush = false
        case .flush:
            mustFlush = true
        case .read, .blockStatus:
            mustFlush = false
        }
        guard mustFlush else { return }
        try await translated { () throws(BlockError) in try await device.flush() }
    }

    private func translated(
        _ body: () async throws(BlockError) -> Void
    ) async throws(NBDFailure) {
        do throws(BlockError) {
            try await body()
        } catch {
            throw NBDFailure(error)
        }
    }

    // Pieces end on multiples of their length, so that a device's clusters are not cut.
    private func inPieces(
        _ range: ByteRange, _ pieceBytes: UInt64,
        _ body: (ByteRange) async throws(BlockError) -> Void
    ) async throws(NBDFailure) {
        var position = range.offset
        do throws(BlockError) {
            while true {
                let left = pieceBytes - position % pieceBytes
                let piece = ByteRange(
                    offset: position, lengthBytes: min(left, range.end - position))
                try await body(piece)
                position = piece.end
                if position == range.end { return }
                try await makeWay()
            }
        } catch {
            throw NBDFailure(error, at: position > range.offset ? position : nil)
        }
    }
}
