internal import NIOCore
internal import Synchronization

/// What a client is waiting for, shared between its callers and its connection.
final class QMPClientState: Sendable {
    private struct Waiting {
        var greeting: CheckedContinuation<JSONValue, any Error>?
        var answers: [Int64: CheckedContinuation<JSONValue, any Error>] = [:]
        var early: JSONValue?
        var nextID: Int64 = 0
        var failure: QMPClientError?
    }

    let events: AsyncThrowingStream<QMPEvent, any Error>
    let path: String

    private let waiting = Mutex(Waiting())
    private let eventSink: AsyncThrowingStream<QMPEvent, any Error>.Continuation

    init(path: String, eventsMax: Int) {
        self.path = path
        (events, eventSink) = AsyncThrowingStream.makeStream(
            bufferingPolicy: .bufferingOldest(eventsMax))
    }

    /// A number for the next request.
    func takeID() -> Int64 {
        waiting.withLock { waiting in
            waiting.nextID += 1
            return waiting.nextID
        }
    }

    /// Waits for the greeting.
    func greeting() async throws -> JSONValue {
        try await withCheckedThrowingContinuation { continuation in
            let outcome: Result<JSONValue, any Error>? = waiting.withLock { waiting in
                if let early = waiting.early { return .success(early) }
                if let failure = waiting.failure { return .failure(failure) }
                waiting.greeting = continuation
                return nil
            }
            if let outcome { continuation.resume(with: outcome) }
        }
    }

    /// Calls `send` and waits for the answer to `id`; a cancelled caller stops waiting at once.
    func answer(to id: Int64, _ send: () -> Void) async throws -> JSONValue {
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                let failure: (any Error)? = waiting.withLock { waiting in
                    if let failure = waiting.failure { return failure }
                    if Task.isCancelled { return CancellationError() }
                    waiting.answers[id] = continuation
                    return nil
                }
                if let failure { return continuation.resume(throwing: failure) }
                send()
            }
        } onCancel: {
            let continuation = waiting.withLock { $0.answers.removeValue(forKey: id) }
            continuation?.resume(throwing: CancellationError())
        }
    }

    /// Hands a message to whoever waits for it.
    func receive(_ message: JSONValue) {
        if let event = QMPEvent(message: message) {
            if case .dropped = eventSink.yield(event) {
                eventSink.finish(throwing: QMPClientError.eventsLost)
            }
        } else if message["QMP"] != nil {
            let continuation = waiting.withLock { waiting in
                waiting.early = message
                return waiting.greeting.take()
            }
            continuation?.resume(returning: message)
        } else if let id = message["id"]?.intValue {
            let continuation = waiting.withLock { $0.answers.removeValue(forKey: id) }
            continuation?.resume(returning: message)
        } else {
            let reason = message["error"]?["desc"]?.stringValue ?? "an answer without an id"
            fail(.protocolViolation(path: path, reason: reason))
        }
    }

    /// Ends everything that waits, now and later, with `failure`; only the first counts.
    func fail(_ failure: QMPClientError) {
        let continuations = waiting.withLock { waiting in
            if waiting.failure == nil { waiting.failure = failure }
            var all = Array(waiting.answers.values)
            if let greeting = waiting.greeting.take() { all.append(greeting) }
            waiting.answers = [:]
            return all
        }
        for continuation in continuations { continuation.resume(throwing: failure) }
        if case .closed = failure {
            eventSink.finish()
        } else {
            eventSink.finish(throwing: failure)
        }
    }
}

/// Feeds what a connection receives into the state of its client.
final class QMPClientHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    private let state: QMPClientState
    private var framer = QMPFramer(valueBytesMax: 64 << 20, depthMax: 64)

    init(state: QMPClientState) { self.state = state }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        for item in framer.consume(unwrapInboundIn(data).readableBytesView) {
            switch item {
            case .value(let bytes):
                do throws(JSONSyntaxError) {
                    state.receive(try JSONParser.parse(bytes))
                } catch {
                    violation(error.message, context)
                }
            case .garbage(let reason), .fatal(let reason):
                violation(reason, context)
            }
        }
    }

    func channelInactive(context: ChannelHandlerContext) {
        state.fail(.closed(path: state.path))
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        state.fail(.unreachable(path: state.path, reason: "\(error)"))
        context.close(promise: nil)
    }

    private func violation(_ reason: String, _ context: ChannelHandlerContext) {
        state.fail(.protocolViolation(path: state.path, reason: reason))
        context.close(promise: nil)
    }
}
