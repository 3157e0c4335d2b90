import Synchronization

// What a guest waits for, though not for ever: the copy of its write in a mirror's target.
//
// Each copy runs in a task of its own. While there are any, one more task looks at them from time to
// time and lets those go on alone that take longer than the patience allows: their waiters go on. A
// copy ends *in time* or is *abandoned*, decided under one lock, so what either comes to is done
// before its waiter goes on and never both.

/// Copies that are waited for as long as patience lasts.
final class AwaitedCopies: Sendable {
    private struct Copy {
        let started: ContinuousClock.Instant
        let waiter: UnsafeContinuation<Bool, Never>
        let abandon: @Sendable () -> Void
    }

    private struct State {
        var awaited: [UInt64: Copy] = [:]
        var lastID: UInt64 = 0
        /// Those that go on alone.
        var abandonedCount = 0
        var isWatched = false
    }

    private let patience: Duration
    private let state = Mutex(State())

    init(patience: Duration) { self.patience = patience }

    /// Runs `copy`. True if it ended in time, after `ended` with what it came to; else false, after
    /// `abandon`. `released` is called at its very end in any case.
    func run(
        _ copy: @escaping @Sendable () async -> Bool,
        ended: @escaping @Sendable (Bool) -> Void, abandon: @escaping @Sendable () -> Void,
        released: @escaping @Sendable () -> Void
    ) async -> Bool {
        await withUnsafeContinuation { waiter in
            let (id, watches) = state.withLock { state in
                state.lastID += 1
                state.awaited[state.lastID] = Copy(
                    started: .now, waiter: waiter, abandon: abandon)
                defer { state.isWatched = true }
                return (state.lastID, !state.isWatched)
            }
            if watches { Task { await watch() } }
            Task {
                let result = await copy()
                let awaited = state.withLock { state in
                    let awaited = state.awaited.removeValue(forKey: id)
                    if awaited == nil { state.abandonedCount -= 1 } else { ended(result) }
                    return awaited
                }
                released()
                awaited?.waiter.resume(returning: true)
            }
        }
    }

    /// Waits until none goes on any more.
    func drain() async {
        while state.withLock({ !$0.awaited.isEmpty || $0.abandonedCount > 0 }) {
            do { try await Task.sleep(for: .milliseconds(10)) } catch { return }
        }
    }

    private func watch() async {
        while true {
            try? await Task.sleep(for: patience / 4)
            let late = state.withLock { state -> [Copy]? in
                guard !state.awaited.isEmpty else {
                    state.isWatched = false
                    return nil
                }
                let now = ContinuousClock.now
                let late = state.awaited.filter { now - $0.value.started > patience }
                for (id, copy) in late {
                    copy.abandon()
                    state.awaited[id] = nil
                }
                state.abandonedCount += late.count
                return Array(late.values)
            }
            guard let late else { return }
            for copy in late { copy.waiter.resume(returning: false) }
        }
    }
}
