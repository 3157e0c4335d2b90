package import BlockCore
import Synchronization

// Who may touch which bytes of a volume.
//
// A guest's write holds its range from the moment its old content is safe until its bits are
// marked; a job's copy that could meet a write holds its range too. Holding the whole volume is
// the quiet instant: it is granted when everything in flight has drained, and what comes after it
// waits behind it.
//
// Requests are granted in order of arrival among those that overlap, so that a wide request is not
// starved by a stream of narrow ones. Few ranges are held at a time (one per request in flight),
// so a linear search of a small array is the fastest structure there is.

/// Locks on byte ranges, taken without waiting by a connection's thread or with it by a task.
package final class RangeLock: Sendable {
    /// Proof of a range held; give it back with `release`.
    package struct Hold: Sendable {
        fileprivate let ticket: UInt64
    }

    private struct Entry {
        let ticket: UInt64
        let range: ByteRange

        func excludes(_ other: ByteRange) -> Bool {
            if Mutant.ignoreOverlap.isActive, range.lengthBytes == other.lengthBytes {
                return false
            }
            return range.overlaps(other)
        }
    }

    private struct Waiter {
        let entry: Entry
        let continuation: UnsafeContinuation<Bool, Never>
    }

    private struct State {
        var lastTicket: UInt64 = 0
        var held: [Entry] = []
        var waiting: [Waiter] = []

        mutating func nextTicket() -> UInt64 {
            lastTicket += 1
            return lastTicket
        }

        func isFree(_ range: ByteRange, before waiterIndex: Int) -> Bool {
            for entry in held where entry.excludes(range) { return false }
            for index in 0..<waiterIndex where waiting[index].entry.excludes(range) {
                return false
            }
            return true
        }

        /// Moves every waiter that is free now to the held, and returns them to be resumed.
        mutating func grantWaiters() -> [Waiter] {
            var granted: [Waiter] = []
            var index = 0
            while index < waiting.count {
                if isFree(waiting[index].entry.range, before: index) {
                    let waiter = waiting.remove(at: index)
                    held.append(waiter.entry)
                    granted.append(waiter)
                } else {
                    index += 1
                }
            }
            return granted
        }
    }

    private let state = HostMutex(State())

    package init() {}

    /// Takes `range` if nobody holds or awaits a part of it.
    package func tryAcquire(_ range: ByteRange) -> Hold? {
        state.withLock { state in
            guard state.isFree(range, before: state.waiting.count) else { return nil }
            let ticket = state.nextTicket()
            state.held.append(Entry(ticket: ticket, range: range))
            return Hold(ticket: ticket)
        }
    }

    /// Takes `range`, waiting for those before it.
    package func acquire(_ range: ByteRange) async -> Hold {
        if let hold = tryAcquire(range) { return hold }
        let (hold, _) = await wait(range, deadline: nil)
        return hold
    }

    /// Takes `range`, or gives up at the deadline and returns nil with nothing changed.
    package func acquire(_ range: ByteRange, within deadline: Duration) async -> Hold? {
        if let hold = tryAcquire(range) { return hold }
        let (hold, isGranted) = await wait(range, deadline: deadline)
        return isGranted ? hold : nil
    }

    /// Whether somebody holds a part of `range` at this moment; who only waits for it does not
    /// count.
    func isHeld(_ range: ByteRange) -> Bool {
        state.withLock { state in state.held.contains { $0.range.overlaps(range) } }
    }

    /// Gives the range back and lets those through that waited for it.
    package func release(_ hold: Hold) {
        let granted = state.withLock { state in
            guard let index = state.held.firstIndex(where: { $0.ticket == hold.ticket }) else {
                preconditionFailure("a range was released twice")
            }
            state.held.swapAt(index, state.held.count - 1)
            state.held.removeLast()
            return state.waiting.isEmpty ? [] : state.grantWaiters()
        }
        for waiter in granted { waiter.continuation.resume(returning: true) }
    }

    private func wait(_ range: ByteRange, deadline: Duration?) async -> (Hold, Bool) {
        let ticket = state.withLock { $0.nextTicket() }
        let timer = Mutex<Task<Void, Never>?>(nil)
        let isGranted = await withUnsafeContinuation { continuation in
            let entry = Entry(ticket: ticket, range: range)
            let granted = state.withLock { state in
                state.waiting.append(Waiter(entry: entry, continuation: continuation))
                return state.grantWaiters()
            }
            for waiter in granted { waiter.continuation.resume(returning: true) }
            // Only now: a timer that fires finds the waiter, or finds that it is one no more.
            guard let deadline else { return }
            timer.withLock { timer in
                timer = Task { [self] in
                    do { try await Task.sleep(for: deadline) } catch { return }
                    giveUp(ticket)
                }
            }
        }
        timer.withLock { $0 }?.cancel()
        return (Hold(ticket: ticket), isGranted)
    }

    /// Removes a waiter whose deadline passed; what waited only for it goes on.
    private func giveUp(_ ticket: UInt64) {
        let (abandoned, granted): (Waiter?, [Waiter]) = state.withLock { state in
            guard let index = state.waiting.firstIndex(where: { $0.entry.ticket == ticket }) else {
                return (nil, [])
            }
            let waiter = state.waiting.remove(at: index)
            return (waiter, state.grantWaiters())
        }
        abandoned?.continuation.resume(returning: false)
        for waiter in granted { waiter.continuation.resume(returning: true) }
    }
}
