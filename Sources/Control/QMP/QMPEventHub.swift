internal import Synchronization

/// Distributes events to every client in command mode.
///
/// It is made before the server and given to whoever has something to tell, so that jobs need
/// not know the server.
package final class QMPEventHub: Sendable {
    private struct State {
        var subscribers: [UInt64: QMPOutbox] = [:]
        var nextID: UInt64 = 0
    }

    private let state = Mutex(State())

    package init() {}

    /// Queues `event` for every client and returns at once. Every client sees the events of one
    /// caller in the order of its calls.
    package func broadcast(_ event: QMPEvent) {
        let bytes = QMPMessage.bytes(event.message)
        let subscribers = state.withLock { Array($0.subscribers.values) }
        for outbox in subscribers { outbox.append(bytes) }
    }

    /// How many clients are in command mode.
    package var clientCount: Int { state.withLock { $0.subscribers.count } }

    /// Queues `first` and from then on every event: none comes before it, and a client that has
    /// read it misses none.
    func subscribe(_ outbox: QMPOutbox, first: [UInt8]) -> UInt64 {
        state.withLock { state in
            outbox.append(first)
            state.nextID += 1
            state.subscribers[state.nextID] = outbox
            return state.nextID
        }
    }

    func unsubscribe(_ id: UInt64) {
        _ = state.withLock { $0.subscribers.removeValue(forKey: id) }
    }
}
