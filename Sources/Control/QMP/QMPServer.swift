package import Logging
internal import NIOCore
internal import NIOPosix
internal import Synchronization

/// Answers the control socket.
///
/// Requests of one connection run one after another; connections do not wait for each other.
/// Once begun a command runs to its end, even if its client goes or the server ends.
package final class QMPServer: Sendable {
    private let socketPath: String
    private let commands: CommandTable
    private let events: QMPEventHub
    private let log: Logger
    private let limits: QMPLimits
    private let onListening: @Sendable () -> Void
    private let pending = PendingConnections()
    private let connectionCount = Atomic<Int>(0)

    /// A server for `socketPath`, which `run` creates and then calls `onListening`.
    package init(
        socketPath: String, commands: CommandTable, events: QMPEventHub = QMPEventHub(),
        log: Logger, limits: QMPLimits = QMPLimits(),
        onListening: @escaping @Sendable () -> Void = {}
    ) {
        self.socketPath = socketPath
        self.commands = commands
        self.events = events
        self.log = log
        self.limits = limits
        self.onListening = onListening
    }

    /// Queues `event` for every client in command mode.
    package func broadcast(_ event: QMPEvent) { events.broadcast(event) }

    /// Serves until the task is cancelled: then takes no new requests, lets the commands under
    /// way answer, removes the socket and returns. Throws if the socket cannot be had.
    package func run() async throws {
        let descriptor = try ControlSocket.bind(to: socketPath)
        defer { unlink(socketPath) }
        let listener = try await listen(on: descriptor)
        log.info("control socket is ready", metadata: ["path": "\(socketPath)"])
        onListening()
        do {
            try await withThrowingDiscardingTaskGroup { group in
                try await listener.executeThenClose { connections in
                    for try await connection in connections {
                        pending.remove(connection)
                        group.addTask { await self.serve(connection) }
                    }
                }
            }
        } catch is CancellationError {
            log.debug("control socket is closed", metadata: ["path": "\(socketPath)"])
        } catch {
            await pending.end()
            throw error
        }
        await pending.end()
    }

    private func listen(
        on descriptor: Int32
    ) async throws -> NIOAsyncChannel<PendingConnections.Connection, Never> {
        try await ServerBootstrap(group: .singletonMultiThreadedEventLoopGroup)
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            .bind(descriptor) { [pending] channel in
                channel.eventLoop.makeCompletedFuture { try pending.admit(channel) }
            }
    }

    private func serve(_ connection: PendingConnections.Connection) async {
        let count = connectionCount.add(1, ordering: .relaxed).newValue
        defer { connectionCount.subtract(1, ordering: .relaxed) }
        do {
            try await connection.executeThenClose { inbound, outbound in
                guard count <= limits.connectionsMax else {
                    log.warning("a control client was refused: there are \(count - 1) already")
                    return
                }
                try await converse(connection.channel, inbound, outbound)
            }
        } catch is CancellationError {
            return
        } catch {
            log.debug("a control connection ended", metadata: ["error": "\(error)"])
        }
    }

    private func converse(
        _ channel: any Channel, _ inbound: NIOAsyncChannelInboundStream<ByteBuffer>,
        _ outbound: NIOAsyncChannelOutboundWriter<ByteBuffer>
    ) async throws {
        let outbox = QMPOutbox(bytesMax: limits.outboxBytesMax) { [log] in
            log.warning("a control client was dropped: it does not read what it is sent")
            channel.close(promise: nil)
        }
        outbox.append(QMPMessage.bytes(try QMPMessage.greeting()))
        // Not a child task: what was answered goes out even when the server is ending.
        let writer = Task {
            for await _ in outbox.wakeups {
                while let batch = outbox.take() {
                    try await outbound.write(ByteBuffer(bytes: batch))
                }
            }
            while let batch = outbox.take() { try await outbound.write(ByteBuffer(bytes: batch)) }
        }
        let received: Result<Void, any Error>
        do {
            received = .success(try await receive(inbound, outbox))
        } catch {
            received = .failure(error)
        }
        outbox.finish()
        let deadline = channel.eventLoop.scheduleTask(in: .seconds(2)) {
            channel.close(promise: nil)
        }
        defer { deadline.cancel() }
        try await writer.value
        try received.get()
    }

    /// Reads requests and runs them until the client ends or is given up.
    private func receive(
        _ inbound: NIOAsyncChannelInboundStream<ByteBuffer>, _ outbox: QMPOutbox
    ) async throws {
        var session = QMPSession(limits: limits)
        var subscription: UInt64?
        defer { if let subscription { events.unsubscribe(subscription) } }
        for try await bytes in inbound {
            for action in session.receive(bytes.readableBytesView) {
                try Task.checkCancellation()
                switch action {
                case .reply(let message):
                    outbox.append(QMPMessage.bytes(message))
                case .enterCommandMode(let message):
                    subscription = events.subscribe(outbox, first: QMPMessage.bytes(message))
                case .execute(let request):
                    outbox.append(QMPMessage.bytes(await run(request)))
                case .replyAndClose(let message):
                    outbox.append(QMPMessage.bytes(message))
                    return
                }
            }
        }
    }

    private func run(_ request: QMPRequest) async -> JSONValue {
        log.debug("control command", metadata: ["command": "\(request.command)"])
        // Not a child task: a command is not cut in half because its client went away.
        return await Task { [commands] in
            do throws(ControlError) {
                let result = try await commands.execute(
                    request.command, arguments: request.arguments)
                return QMPMessage.success(result, id: request.id)
            } catch {
                return QMPMessage.failure(error, id: request.id)
            }
        }.value
    }
}
