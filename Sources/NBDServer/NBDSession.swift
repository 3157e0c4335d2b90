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
    let begunReads = NBDBegunReads()
    private let isAbandoned = Atomic(false)

    init(
        _ agreement: NBDAgreement, _ socket: NBDSocket, _ credits: NBDCredits, name: String
    ) {
        export = agreement.entry.export
        device = export.device
        rules = agreement.rules
        contexts = agreement.contexts
        codec = NBDReplyCodec(agreement.rules.form)
        self.socket = socket
        self.credits = credits
        channel = NBDReplyChannel(socket, credits, threadName: "\(name)-out")
    }

    /// Says that nobody waits for replies any more: work of many pieces ends after the present
    /// one.
    func abandon() { isAbandoned.store(true, ordering: .relaxed) }

    /// Lets what waits for the pool's thread go first, between two pieces of one request. Throws
    /// `cancelled` if nobody wants the rest.
    func makeWay() async throws(BlockError) {
        // While the connection's thread waits for credits, nobody else sees that the client is gone.
        if isAbandoned.load(ordering: .relaxed) || socket.isHungUp {
            throw BlockError(.cancelled, "serve a client", on: export.name, detail: "it is gone")
        }
        await Task.yield()
    }
}

extension NBDSession {
    /// Tells the export of a request that its device failed. What a device cannot do, or is told
    /// not to try, is no failure of it.
    func report(_ failure: NBDFailure, of request: NBDRequest) {
        guard failure.code == .noSpace || failure.code == .inputOutput else { return }
        export.requestFailed(
            NBDRequestFailure(
                isWrite: NBDCommand(rawValue: request.type)?.changesDisk == true,
                isNoSpace: failure.code == .noSpace,
                reason: failure.reason))
    }
}
