import BlockCore
import Glibc

/// The answer to a request that was handed over: kept until it is sent, which may be a while.
///
/// `@unchecked Sendable` is true because nothing changes after the initialiser.
final class NBDReply: @unchecked Sendable {
    /// The bytes before the data. Memory of its own, because system calls point at it.
    let head: UnsafeMutableRawBufferPointer
    /// The data of a read.
    let payload: BufferSlice?
    /// What the request holds of the connection's credits.
    let creditBytes: Int

    var lengthBytes: Int { head.count + (payload?.count ?? 0) }

    /// A reply whose first `headBytes` bytes `fill` writes, all of them.
    init(
        headBytes: Int, payload: BufferSlice? = nil, creditBytes: Int,
        fill: (UnsafeMutableRawPointer) -> Void
    ) {
        head = .allocate(byteCount: headBytes, alignment: 8)
        self.payload = payload
        self.creditBytes = creditBytes
        fill(head.baseAddress!)
    }

    convenience init(_ bytes: [UInt8], creditBytes: Int) {
        self.init(headBytes: bytes.count, creditBytes: creditBytes) { target in
            bytes.withUnsafeBytes { target.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
        }
    }

    deinit { head.deallocate() }
}

/// Replies that are sent one after the other with as few system calls as possible.
struct NBDReplyBatch {
    private static let repliesPerCallMax = 32

    /// What is not sent yet, or not whole.
    private(set) var replies: [NBDReply]
    // How much of the first reply is sent.
    private var sentBytes = 0

    init(_ replies: [NBDReply]) {
        self.replies = replies
    }

    /// Adds replies that are sent after those that are here.
    mutating func append(_ more: [NBDReply]) { replies += more }

    /// Sends with one call as much as the socket takes. Appends the replies that are done with
    /// to `sent`.
    mutating func send(
        on socket: NBDSocket, mayWait: Bool, sent: inout [NBDReply]
    ) -> NBDSocket.Sent {
        let result = withUnsafeTemporaryAllocation(
            of: iovec.self, capacity: 2 * Self.repliesPerCallMax
        ) { vectors in
            var count = 0
            var skipped = sentBytes
            for reply in replies.prefix(Self.repliesPerCallMax) {
                for part in [reply.head, reply.payload?.bytes] {
                    guard let part, skipped < part.count else {
                        skipped -= part?.count ?? 0
                        continue
                    }
                    vectors[count] = iovec(
                        iov_base: part.baseAddress! + skipped, iov_len: part.count - skipped)
                    count += 1
                    skipped = 0
                }
            }
            return socket.send(.init(rebasing: vectors[..<count]), mayWait: mayWait)
        }
        if case .bytes(let count) = result { advance(count, &sent) }
        return result
    }

    private mutating func advance(_ count: Int, _ sent: inout [NBDReply]) {
        sentBytes += count
        var whole = 0
        while whole < replies.count, sentBytes >= replies[whole].lengthBytes {
            sentBytes -= replies[whole].lengthBytes
            whole += 1
        }
        sent += replies[..<whole]
        replies.removeFirst(whole)
    }
}
