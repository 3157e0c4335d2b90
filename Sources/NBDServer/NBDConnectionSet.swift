import Synchronization

/// The connections of a server, or of an export, so that they can be ended and waited for.
final class NBDConnectionSet: Sendable {
    private struct State {
        var members: [ObjectIdentifier: NBDConnection] = [:]
        var isSealed = false
        var waiters: [Int: UnsafeContinuation<Bool, Never>] = [:]
        var waiterNext = 0
    }

    private let state = Mutex(State())

    var count: Int { state.withLock { $0.members.count } }

    /// Adds a connection; false if the set is sealed.
    func insert(_ connection: NBDConnection) -> Bool {
        state.withLock { state in
            guard !state.isSealed else { return false }
            state.members[ObjectIdentifier(connection)] = connection
            return true
        }
    }

    /// Takes a connection out, which must be all over.
    func remove(_ connection: NBDConnection) {
        let waiters = state.withLock { state in
            state.members[ObjectIdentifier(connection)] = nil
            guard state.members.isEmpty else { return [UnsafeContinuation<Bool, Never>]() }
            defer { state.waiters = [:] }
            return Array(state.waiters.values)
        }
        for waiter in waiters { waiter.resume(returning: true) }
    }

    /// Admits no more connections, and has those that are here finish what they were sent.
    func seal() {
        let members = state.withLock { state in
            state.isSealed = true
            return Array(state.members.values)
        }
        for connection in members { connection.finish() }
    }

    /// Admits no more connections, if there are none. Returns how many there are.
    func sealIfEmpty() -> Int {
        state.withLock { state in
            if state.members.isEmpty { state.isSealed = true }
            return state.members.count
        }
    }

    /// Cuts the connections off from their clients, so that nothing waits for these any more.
    func cut() {
        for connection in state.withLock({ Array($0.members.values) }) { connection.cut() }
    }

    /// Waits until the set is empty; false if that took longer than `limit`.
    func waitUntilEmpty(upTo limit: Duration?) async -> Bool {
        let ticket = state.withLock { state in
            state.waiterNext += 1
            return state.waiterNext
        }
        var alarm: Task<Void, any Error>?
        defer { alarm?.cancel() }
        return await withUnsafeContinuation { continuation in
            let isEmpty = state.withLock { state in
                if !state.members.isEmpty { state.waiters[ticket] = continuation }
                return state.members.isEmpty
            }
            if isEmpty {
                continuation.resume(returning: true)
            } else if let limit {
                alarm = Task {
                    try await Task.sleep(for: limit)
                    giveUp(ticket)
                }
            }
        }
    }

    private func giveUp(_ ticket: Int) {
        let waiter = state.withLock { $0.waiters.removeValue(forKey: ticket) }
        waiter?.resume(returning: false)
    }
}
