internal import Glibc
internal import NIOCore
internal import NIOPosix

/// A connection to an agent. Many tasks may use it at once; it is closed with `close` or with
/// its last reference.
package final class QMPClient: Sendable {
    /// What the agent tells by itself, from the negotiation on, for one reader. The stream ends
    /// with the connection; it throws `eventsLost` if the reader falls thousands behind.
    package var events: AsyncThrowingStream<QMPEvent, any Error> { state.events }

    /// The path of the socket.
    package let path: String

    private let channel: any Channel
    private let state: QMPClientState

    private init(path: String, channel: any Channel, state: QMPClientState) {
        self.path = path
        self.channel = channel
        self.state = state
    }

    deinit { channel.close(promise: nil) }

    /// Connects to the agent at `path` and negotiates. Throws `QMPClientError`.
    package static func connect(
        to path: String, eventsMax: Int = 4096
    ) async throws -> QMPClient {
        try ControlSocket.checkPath(path)
        let state = QMPClientState(path: path, eventsMax: eventsMax)
        let channel: any Channel
        do {
            channel = try await ClientBootstrap(group: .singletonMultiThreadedEventLoopGroup)
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try channel.pipeline.syncOperations.addHandler(
                            QMPClientHandler(state: state))
                    }
                }
                .connect(unixDomainSocketPath: path).get()
        } catch let error as IOError where [ENOENT, ECONNREFUSED].contains(error.errnoCode) {
            throw QMPClientError.noAgent(path: path)
        } catch let error as IOError {
            throw QMPClientError.unreachable(
                path: path, reason: String(cString: strerror(error.errnoCode)))
        }
        let client = QMPClient(path: path, channel: channel, state: state)
        try await client.negotiate()
        return client
    }

    /// Runs `command` and returns its result. Throws `ControlError` if the agent refuses,
    /// `QMPClientError` if the connection is lost, `CancellationError` if the caller is
    /// cancelled; the command itself is not undone by the latter two.
    package func execute<Command: ControlCommand>(
        _ command: Command.Type, _ arguments: Command.Arguments
    ) async throws -> Command.Result {
        let result = try await execute(
            Command.name, arguments: JSONValue(encoding: arguments))
        return try JSONValueDecoder.decode(
            Command.Result.self, from: result, path: "return", refusesUnknownMembers: false)
    }

    /// Runs a command that takes no arguments.
    package func execute<Command: ControlCommand>(
        _ command: Command.Type
    ) async throws -> Command.Result where Command.Arguments == Nothing {
        try await execute(command, Nothing())
    }

    /// Runs a command by its name, with arguments as they are.
    package func execute(_ command: String, arguments: JSONValue = [:]) async throws -> JSONValue {
        let id = state.takeID()
        let request = QMPMessage.request(command, arguments: arguments, id: .int(id))
        let answer = try await state.answer(to: id) {
            channel.writeAndFlush(ByteBuffer(bytes: QMPMessage.bytes(request)), promise: nil)
        }
        if let error = answer["error"] { throw QMPMessage.error(in: error) }
        guard let result = answer["return"] else {
            throw QMPClientError.protocolViolation(path: path, reason: "an answer without result")
        }
        return result
    }

    /// Ends the connection and everything that waits on it.
    package func close() async {
        try? await channel.close().get()
    }

    private func negotiate() async throws {
        let overdue = channel.eventLoop.scheduleTask(in: .seconds(10)) { [state, path, channel] in
            state.fail(.unreachable(path: path, reason: "it does not answer within 10 seconds"))
            channel.close(promise: nil)
        }
        defer { overdue.cancel() }
        _ = try await state.greeting()
        _ = try await execute("qmp_capabilities")
    }
}
