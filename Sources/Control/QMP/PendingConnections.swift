internal import NIOCore
internal import Synchronization

// NIO insists that whoever makes a `NIOAsyncChannel` also runs it: one that is merely dropped
// ends the process. A server that ends while clients connect would drop those that were accepted
// and not yet served. So each is noted here from its making until it is served.

/// The connections that were accepted and are not served yet.
final class PendingConnections: Sendable {
    typealias Connection = NIOAsyncChannel<ByteBuffer, ByteBuffer>

    private struct State {
        var connections: [ObjectIdentifier: Connection] = [:]
        var isEnded = false
    }

    private let state = Mutex(State())

    /// Wraps a fresh channel, on its event loop. Once the server has ended it closes the channel
    /// and throws.
    func admit(_ channel: any Channel) throws -> Connection {
        try state.withLock { state in
            guard !state.isEnded else {
                channel.close(promise: nil)
                throw CancellationError()
            }
            let connection = try Connection(wrappingChannelSynchronously: channel)
            state.connections[ObjectIdentifier(channel)] = connection
            return connection
        }
    }

    /// Says that `connection` is being served.
    func remove(_ connection: Connection) {
        _ = state.withLock {
            $0.connections.removeValue(forKey: ObjectIdentifier(connection.channel))
        }
    }

    /// Closes what will not be served any more, and admits nothing from now on.
    func end() async {
        let dropped = state.withLock { state in
            state.isEnded = true
            return Array(state.connections.values)
        }
        for connection in dropped { try? await connection.executeThenClose { _, _ in } }
        state.withLock { $0.connections = [:] }
    }
}
