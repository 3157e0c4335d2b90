/// A lock that a task may hold while it waits for I/O; those who want it get it in turn.
///
/// For anything that does not wait, a `Mutex` is the lock to use.
package final class AsyncLock: Sendable {
    private struct State {
        var isHeld = false
        var waiting: [UnsafeContinuation<Void, Never>] = []
    }

    private let state = HostMutex(State())

    package init() {}

    /// Runs `body` while no other task is inside one of this lock's bodies.
    package func withLock<T: Sendable>(
        _ body: () async throws(BlockError) -> T
    ) async throws(BlockError) -> T {
        await acquire()
        defer { release() }
        return try await body()
    }

    private func acquire() async {
        if tryAcquire(or: nil) { return }
        await withUnsafeContinuation { continuation in
            if tryAcquire(or: continuation) { continuation.resume() }
        }
    }

    private func tryAcquire(or continuation: UnsafeContinuation<Void, Never>?) -> Bool {
        state.withLock { state in
            if !state.isHeld {
                state.isHeld = true
                return true
            }
            if let continuation { state.waiting.append(continuation) }
            return false
        }
    }

    private func release() {
        let next = state.withLock { state -> UnsafeContinuation<Void, Never>? in
            guard !state.waiting.isEmpty else {
                state.isHeld = false
                return nil
            }
            return state.waiting.removeFirst()
        }
        next?.resume()
    }
}
