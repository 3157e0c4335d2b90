import BlockCore
import Synchronization

/// What the connection's thread and the tasks of one connection share while requests flow.
final class NBDSession: Sendable {
    let device: any BlockDevice
    let export: any NBDExport
    let rules: NBDRequestRules
    let contexts: [NBDMetaContext]
    let codec: NBDReplyCodec
    let socket: NBDSocket
    let channel: NBDReplyChannel
    let credits: NBDCredits

    init(_ agreement: NBDAgreement, _ socket: NBDSocket, _ limits: NBDLimits, name: String) {
        export = agreement.entry.export
        device = export.device
        rules = agreement.rules
        contexts = agreement.contexts
        codec = NBDReplyCodec(isStructured: agreement.rules.isStructured)
        self.socket = socket
        credits = NBDCredits(limits)
        channel = NBDReplyChannel(socket, credits, threadName: "\(name)-out")
    }

    /// The reply that says how `request` failed.
    func failure(_ error: BlockError, _ request: NBDRequest) -> [UInt8] {
        codec.failure(NBDErrorCode(error.kind), "\(error)", cookie: request.cookie)
    }
}

/// A request that the now face could not answer, with all it needs to be carried out later.
struct NBDLaterRequest: Sendable {
    /// What is left to do.
    enum Work: Sendable {
        case read(BufferSlice)
        case write(BufferSlice)
        /// The data is written; only the flush that was asked with it is missing.
        case flush
        case writeZeroes(mayUnmap: Bool)
        case discard
        case cache
        case blockStatus
    }

    var request: NBDRequest
    var work: Work

    /// What the request holds of the connection's credits.
    var creditBytes: Int {
        switch work {
        case .read(let slice), .write(let slice): slice.buffer.capacityBytes
        case .cache: Int(min(request.lengthBytes, NBDSession.cachePieceBytes))
        case .flush, .writeZeroes, .discard, .blockStatus: 0
        }
    }
}

extension NBDSession {
    /// What is read at once to warm a cache.
    static let cachePieceBytes: UInt32 = 1 << 20

    /// Carries `later` out on the later face, on a thread of the guests' pool, and posts the
    /// reply. Its credits must have been taken.
    func start(_ later: NBDLaterRequest) {
        Task(executorPreference: IOPool.guest) { [self] in
            channel.post(await reply(to: later))
        }
    }

    private func reply(to later: NBDLaterRequest) async -> NBDReply {
        let request = later.request
        do throws(BlockError) {
            if case .blockStatus = later.work {
                let contexts = try await statusOfContexts(request)
                return NBDReply(
                    codec.blockStatus(contexts, cookie: request.cookie),
                    creditBytes: later.creditBytes)
            }
            try await perform(later)
            if case .read(let slice) = later.work {
                return NBDReply(
                    headBytes: codec.readHeadBytes, payload: slice, creditBytes: later.creditBytes
                ) { codec.putReadHead(request, at: $0) }
            }
            return NBDReply(headBytes: codec.successBytes, creditBytes: later.creditBytes) {
                codec.putSuccess(request.cookie, at: $0)
            }
        } catch {
            return NBDReply(failure(error, request), creditBytes: later.creditBytes)
        }
    }

    private func perform(_ later: NBDLaterRequest) async throws(BlockError) {
        let range = later.request.range
        var mustFlush = later.request.flags.contains(.fua)
        switch later.work {
        case .read(let slice):
            try await device.read(at: range.offset, into: slice)
            mustFlush = false
        case .write(let slice):
            try await device.write(at: range.offset, from: slice)
        case .flush:
            mustFlush = true
        case .writeZeroes(let mayUnmap):
            try await device.writeZeroes(range, mayUnmap: mayUnmap)
        case .discard:
            try await device.discard(range)
        case .cache:
            try await warm(range)
            mustFlush = false
        case .blockStatus:
            mustFlush = false
        }
        if mustFlush { try await device.flush() }
    }

    private func warm(_ range: ByteRange) async throws(BlockError) {
        let buffer = BufferPool.shared.take(
            Int(min(UInt64(Self.cachePieceBytes), range.lengthBytes)))
        var position = range.offset
        while position < range.end {
            let count = min(UInt64(Self.cachePieceBytes), range.end - position)
            try await device.read(at: position, into: buffer.prefix(Int(count)))
            position += count
        }
    }
}
