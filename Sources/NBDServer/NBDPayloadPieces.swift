// A large payload is written in pieces while the client is still sending the rest of it. A Unix
// socket holds some 200 KiB: a server that first receives all and then writes all lets the client
// wait while it writes, and waits for the client while it receives.
//
// Pieces are not small, since each is a write of its own, and much less than what the socket holds.
// All but the last end at a multiple of a page of the disk, so that no page is written twice.

/// Where the pieces end in which a payload is written.
enum NBDPayloadPieces {
    static let bytesMin = 64 << 10
    private static let alignmentBytes: UInt64 = 4096

    /// Up to where a payload can be written now; `written` if there is too little to begin with.
    ///
    /// - Parameters:
    ///   - offset: where on the disk the payload begins.
    ///   - received: how much of it is here.
    ///   - written: how much of that was written before.
    ///   - count: the length of the payload.
    static func end(offset: UInt64, received: Int, written: Int, count: Int) -> Int {
        if received == count { return count }
        let end = received - Int((offset % alignmentBytes + UInt64(received)) % alignmentBytes)
        return end - written >= bytesMin ? end : written
    }
}
