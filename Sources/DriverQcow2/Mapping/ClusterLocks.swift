import BlockCore

/// Locks on ranges of an image, which tasks hold while they change what is mapped there.
///
/// Who wants a range waits for those that hold a part of it, and for those that want a part of it
/// and came before: nobody starves.
final class ClusterLocks: Sendable {
    private struct Waiter {
        let range: ByteRange
        let continuation: UnsafeContinuation<Void, Never>
    }

    private struct State {
        var held: [ByteRange] = []
        var waiting: [Waiter] = []

        mutating func take(_ range: ByteRange, after earlier: ArraySlice<Waiter>) -> Bool {
            if held.contains(where: { $0.overlaps(range) }) { return false }
            if earlier.contains(where: { $0.range.overlaps(range) }) { return false }
            held.append(range)
            return true
        }
    }

    private let state = HostMutex(State())

    /// Runs `body` while no other body runs whose range overlaps.
    func withLock<T: Sendable>(
        _ range: ByteRange, _ body: () async throws(BlockError) -> T
    ) async throws(BlockError) -> T {
        await acquire(range)
        defer { release(range) }
        return try await body()
    }

    private func acquire(_ range: ByteRange) async {
        await withUnsafeContinuation { continuation in
            let isTaken = state.withLock { state in
                if state.take(range, after: state.waiting[...]) { return true }
                state.waiting.append(Waiter(range: range, continuation: continuation))
                return false
            }
            if isTaken { continuation.resume() }
        }
    }

    private func release(_ range: ByteRange) {
        let next = state.withLock { state -> [UnsafeContinuation<Void, Never>] in
            if let index = state.held.firstIndex(of: range) { state.held.remove(at: index) }
            var next: [UnsafeContinuation<Void, Never>] = []
            var index = 0
            while index < state.waiting.count {
                let waiter = state.waiting[index]
                if state.take(waiter.range, after: state.waiting[..<index]) {
                    next.append(waiter.continuation)
                    state.waiting.remove(at: index)
                } else {
                    index += 1
                }
            }
            return next
        }
        for continuation in next { continuation.resume() }
    }
}
