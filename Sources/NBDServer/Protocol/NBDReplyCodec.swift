// A reply is simple (an error number, and a read's data) or made of chunks with a type, which can
// carry the offset, a message or block status. This server answers every request with exactly one
// of the former, or one chunk (for block status one chunk per context, the last marked as done):
// so a read is never in several pieces, whether the client allows that or not.
//
// The chunks of structured and of extended replies differ in their header, and in the width of
// block status. An extended header repeats the request's offset.

/// A run of a metadata context: its length and the context's flags.
struct NBDStatusRun: Equatable {
    var lengthBytes: UInt64
    var flags: UInt32
}

/// Decodes requests and encodes replies in the form that the connection negotiated.
struct NBDReplyCodec {
    /// The most bytes of text that an error carries.
    static let messageBytesMax = 1024

    let form: NBDMessageForm
    /// The length of a request's header.
    let requestBytes: Int
    /// The length of what precedes a read's data.
    let readHeadBytes: Int
    /// The length of a reply that says nothing but "done".
    let successBytes: Int

    init(_ form: NBDMessageForm) {
        self.form = form
        requestBytes = form.requestBytes
        switch form {
        case .simple:
            successBytes = NBDSize.simpleReplyBytes
            readHeadBytes = successBytes
        case .structured, .extended:
            successBytes =
                form == .extended ? NBDSize.extendedHeaderBytes : NBDSize.structuredReplyBytes
            readHeadBytes = successBytes + 8
        }
    }

    /// The request whose header is at `bytes`; nil if the client cannot be followed any further.
    @inline(__always)
    func request(at bytes: UnsafeRawPointer) -> NBDRequest? { NBDRequest(bytes, form) }

    /// Puts what precedes the data of `request`, a read of at least one byte, at `target`.
    @inline(__always)
    func putReadHead(_ request: NBDRequest, at target: UnsafeMutableRawPointer) {
        guard form != .simple else { return putSuccess(request, at: target) }
        putChunk(
            .offsetData, request, lengthBytes: UInt32(truncatingIfNeeded: request.lengthBytes) + 8,
            at: target)
        target.storeBigEndian(request.offset, successBytes)
    }

    /// Puts a reply that says "done" at `target`.
    @inline(__always)
    func putSuccess(_ request: NBDRequest, at target: UnsafeMutableRawPointer) {
        guard form != .simple else {
            return Self.putSimple(error: 0, cookie: request.cookie, at: target)
        }
        putChunk(.none, request, lengthBytes: 0, at: target)
    }

    /// A reply that says what failed, and where if that is known.
    func failure(_ failure: NBDFailure, _ request: NBDRequest) -> [UInt8] {
        guard form != .simple else {
            return Self.bytes(NBDSize.simpleReplyBytes) {
                Self.putSimple(error: failure.code.rawValue, cookie: request.cookie, at: $0)
            }
        }
        let text = Self.shortened(failure.reason)
        let offset = failure.offset.flatMap { Self.isInside($0, request) ? $0 : nil }
        var reply = Self.bytes(successBytes) {
            putChunk(
                offset == nil ? .error : .errorOffset, request,
                lengthBytes: UInt32((offset == nil ? 6 : 14) + text.count), at: $0)
        }
        reply.appendBigEndian(failure.code.rawValue)
        reply.appendBigEndian(UInt16(text.count))
        reply += text
        if let offset { reply.appendBigEndian(offset) }
        return reply
    }

    /// A reply with the runs of some negotiated contexts. There must be at least one context, the
    /// replies of the connection must have chunks, and no run be longer than the request.
    func blockStatus(
        _ contexts: [(id: UInt32, runs: [NBDStatusRun])], _ request: NBDRequest
    ) -> [UInt8] {
        precondition(form.hasChunks && !contexts.isEmpty)
        let isWide = form == .extended
        var reply: [UInt8] = []
        reply.reserveCapacity(
            contexts.reduce(0) { $0 + successBytes + 8 + (isWide ? 16 : 8) * $1.runs.count })
        for (index, context) in contexts.enumerated() {
            let isLast = index == contexts.count - 1
            let lengthBytes = isWide ? 8 + 16 * context.runs.count : 4 + 8 * context.runs.count
            reply += Self.bytes(successBytes) {
                putChunk(
                    isWide ? .blockStatusExtended : .blockStatus, isDone: isLast, request,
                    lengthBytes: UInt32(lengthBytes), at: $0)
            }
            reply.appendBigEndian(context.id)
            if isWide { reply.appendBigEndian(UInt32(context.runs.count)) }
            for run in context.runs {
                if isWide {
                    reply.appendBigEndian(run.lengthBytes)
                    reply.appendBigEndian(UInt64(run.flags))
                } else {
                    reply.appendBigEndian(UInt32(run.lengthBytes))
                    reply.appendBigEndian(run.flags)
                }
            }
        }
        return reply
    }

    @inline(__always)
    private static func putSimple(
        error: UInt32, cookie: UInt64, at target: UnsafeMutableRawPointer
    ) {
        target.storeBigEndian(NBDMagic.simpleReply, 0)
        target.storeBigEndian(error, 4)
        target.storeBigEndian(cookie, 8)
    }

    @inline(__always)
    private func putChunk(
        _ type: NBDChunkType, isDone: Bool = true, _ request: NBDRequest, lengthBytes: UInt32,
        at target: UnsafeMutableRawPointer
    ) {
        target.storeBigEndian(isDone ? nbdChunkDone : 0, 4)
        target.storeBigEndian(type.rawValue, 6)
        target.storeBigEndian(request.cookie, 8)
        if form == .extended {
            target.storeBigEndian(NBDMagic.extendedReply, 0)
            target.storeBigEndian(request.offset, 16)
            target.storeBigEndian(UInt64(lengthBytes), 24)
        } else {
            target.storeBigEndian(NBDMagic.structuredReply, 0)
            target.storeBigEndian(lengthBytes, 16)
        }
    }

    // Places in a request whose own end is beyond all numbers are compared without adding.
    private static func isInside(_ offset: UInt64, _ request: NBDRequest) -> Bool {
        offset >= request.offset && offset - request.offset < request.lengthBytes
    }

    private static func bytes(
        _ count: Int, _ fill: (UnsafeMutableRawPointer) -> Void
    ) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            fill(UnsafeMutableRawPointer(buffer.baseAddress!))
            initialized = count
        }
    }

    // Cut between characters, so that what is sent stays UTF-8.
    private static func shortened(_ message: String) -> [UInt8] {
        var text: [UInt8] = []
        for character in message {
            if text.count + character.utf8.count > messageBytesMax { break }
            text += character.utf8
        }
        return text
    }
}
