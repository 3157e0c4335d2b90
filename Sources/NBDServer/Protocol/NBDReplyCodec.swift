// A reply is simple (an error number, and a read's data) or, once the client asked for structured
// replies, a chunk with a type, which can carry the offset, a message or block status. This server
// answers every request with exactly one of the former, or one chunk (for block status one chunk
// per context, the last marked as done).

/// A run of a metadata context: its length and the context's flags.
struct NBDStatusRun: Equatable {
    var lengthBytes: UInt32
    var flags: UInt32
}

/// Encodes replies in the form that the connection negotiated.
struct NBDReplyCodec {
    let isStructured: Bool

    /// The most bytes of text that an error carries.
    static let messageBytesMax = 1024

    /// The length of what precedes a read's data.
    var readHeadBytes: Int { isStructured ? NBDSize.structuredReplyBytes + 8 : successBytes }

    /// The length of a reply that says nothing but "done".
    var successBytes: Int {
        isStructured ? NBDSize.structuredReplyBytes : NBDSize.simpleReplyBytes
    }

    /// Puts what precedes the data of `request`, a read of at least one byte, at `target`.
    @inline(__always)
    func putReadHead(_ request: NBDRequest, at target: UnsafeMutableRawPointer) {
        guard isStructured else { return putSuccess(request.cookie, at: target) }
        Self.putChunk(
            .offsetData, cookie: request.cookie, lengthBytes: request.lengthBytes + 8, at: target)
        target.storeBigEndian(request.offset, NBDSize.structuredReplyBytes)
    }

    /// Puts a reply that says "done" at `target`.
    @inline(__always)
    func putSuccess(_ cookie: UInt64, at target: UnsafeMutableRawPointer) {
        guard isStructured else {
            return Self.putSimple(error: 0, cookie: cookie, at: target)
        }
        Self.putChunk(.none, cookie: cookie, lengthBytes: 0, at: target)
    }

    /// A reply that says what failed.
    func failure(_ code: NBDErrorCode, _ message: String, cookie: UInt64) -> [UInt8] {
        guard isStructured else {
            return Self.bytes(NBDSize.simpleReplyBytes) {
                Self.putSimple(error: code.rawValue, cookie: cookie, at: $0)
            }
        }
        let text = Self.shortened(message)
        var reply = Self.bytes(NBDSize.structuredReplyBytes) {
            Self.putChunk(.error, cookie: cookie, lengthBytes: UInt32(6 + text.count), at: $0)
        }
        reply.appendBigEndian(code.rawValue)
        reply.appendBigEndian(UInt16(text.count))
        reply += text
        return reply
    }

    /// A reply with the runs of each negotiated context; there must be at least one context, and
    /// the connection must use structured replies.
    func blockStatus(
        _ contexts: [(id: UInt32, runs: [NBDStatusRun])], cookie: UInt64
    ) -> [UInt8] {
        precondition(isStructured && !contexts.isEmpty)
        var reply: [UInt8] = []
        for (index, context) in contexts.enumerated() {
            let isLast = index == contexts.count - 1
            reply += Self.bytes(NBDSize.structuredReplyBytes) {
                Self.putChunk(
                    .blockStatus, isDone: isLast, cookie: cookie,
                    lengthBytes: UInt32(4 + 8 * context.runs.count), at: $0)
            }
            reply.appendBigEndian(context.id)
            for run in context.runs {
                reply.appendBigEndian(run.lengthBytes)
                reply.appendBigEndian(run.flags)
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
    private static func putChunk(
        _ type: NBDChunkType, isDone: Bool = true, cookie: UInt64, lengthBytes: UInt32,
        at target: UnsafeMutableRawPointer
    ) {
        target.storeBigEndian(NBDMagic.structuredReply, 0)
        target.storeBigEndian(isDone ? nbdChunkDone : 0, 4)
        target.storeBigEndian(type.rawValue, 6)
        target.storeBigEndian(cookie, 8)
        target.storeBigEndian(lengthBytes, 16)
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
