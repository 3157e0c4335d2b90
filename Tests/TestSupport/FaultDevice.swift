package import BlockCore
import Synchronization

/// A filter that passes everything on, fails what it is told to, and holds what it is told to.
package final class FaultDevice: BlockDevice {
    /// What can be made to fail or to wait.
    package enum Operation: String, Sendable, CaseIterable {
        case read, write, zero, discard, flush
    }

    private struct Fault {
        let operation: Operation
        var remaining: Int
        let isLasting: Bool
        let error: BlockError
    }

    private struct State {
        var faults: [Fault] = []
        var counts: [Operation: Int] = [:]
        var paused: Set<Operation> = []
        var held: [(Operation, CheckedContinuation<Void, Never>)] = []
        var arrivals: [(Operation, Int, CheckedContinuation<Void, Never>)] = []
    }

    package let base: any BlockDevice
    private let state = Mutex(State())

    package init(_ base: any BlockDevice) { self.base = base }

    package var nodeName: String { base.nodeName }
    package var lengthBytes: UInt64 { base.lengthBytes }
    package var isReadOnly: Bool { base.isReadOnly }
    package var allocationUnitBytes: UInt64 { base.allocationUnitBytes }

    /// Makes the `number`th `operation` from now, the next being 1, throw `error`; and all that
    /// come after it, if `lasting`.
    package func fail(
        _ operation: Operation, number: Int = 1, lasting: Bool = false,
        with error: BlockError = BlockError(.io, "do as told", on: "fault")
    ) {
        state.withLock {
            $0.faults.append(
                Fault(
                    operation: operation, remaining: number, isLasting: lasting, error: error))
        }
    }

    /// Forgets all faults.
    package func heal() { state.withLock { $0.faults = [] } }

    /// How many of `operation` came, by either face.
    package func count(_ operation: Operation) -> Int {
        state.withLock { $0.counts[operation] ?? 0 }
    }

    /// Holds every `operation` that comes from now on, before it has any effect.
    package func pause(_ operation: Operation) {
        state.withLock { _ = $0.paused.insert(operation) }
    }

    /// Lets the held ones of `operation`, and all later ones, go on.
    package func release(_ operation: Operation) {
        let held = state.withLock { state in
            state.paused.remove(operation)
            let held = state.held.filter { $0.0 == operation }
            state.held.removeAll { $0.0 == operation }
            return held
        }
        for (_, continuation) in held { continuation.resume() }
    }

    /// Waits until `count` of `operation` are held.
    package func waitUntilHeld(_ operation: Operation, count: Int = 1) async {
        await withCheckedContinuation { continuation in
            let isThere = state.withLock { state in
                if state.held.filter({ $0.0 == operation }).count >= count { return true }
                state.arrivals.append((operation, count, continuation))
                return false
            }
            if isThere { continuation.resume() }
        }
    }

    package func tryRead(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        guard try mayPassNow(.read) else { return .refused }
        return try base.tryRead(at: offset, into: destination)
    }

    package func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool {
        guard try mayPassNow(.write) else { return false }
        return try base.tryWrite(at: offset, from: source)
    }

    package func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        try await pass(.read)
        try await base.read(at: offset, into: destination)
    }

    package func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        try await pass(.write)
        try await base.write(at: offset, from: source)
    }

    package func writeZeroes(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
        try await pass(.zero)
        try await base.writeZeroes(range, mayUnmap: mayUnmap)
    }

    package func discard(_ range: ByteRange) async throws(BlockError) {
        try await pass(.discard)
        try await base.discard(range)
    }

    package func flush() async throws(BlockError) {
        try await pass(.flush)
        try await base.flush()
    }

    package func extents(in range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
        try await base.extents(in: range, limit: limit)
    }

    package func close() async throws(BlockError) { try await base.close() }

    /// The *now* face refuses what would have to wait or fail, so that the other face meets it.
    private func mayPassNow(_ operation: Operation) throws(BlockError) -> Bool {
        state.withLock { state in
            if state.paused.contains(operation) { return false }
            return !state.faults.contains { $0.operation == operation }
        }
    }

    private func pass(_ operation: Operation) async throws(BlockError) {
        await hold(operation)
        let error = state.withLock { state -> BlockError? in
            state.counts[operation, default: 0] += 1
            var error: BlockError?
            for index in state.faults.indices where state.faults[index].operation == operation {
                state.faults[index].remaining -= 1
                if state.faults[index].remaining == 0
                    || state.faults[index].remaining < 0 && state.faults[index].isLasting
                {
                    error = state.faults[index].error
                }
            }
            state.faults.removeAll { $0.remaining <= 0 && !$0.isLasting }
            return error
        }
        if let error { throw error }
    }

    private func hold(_ operation: Operation) async {
        await withCheckedContinuation { continuation in
            let (isHeld, arrived) = state.withLock {
                state -> (Bool, [CheckedContinuation<Void, Never>]) in
                guard state.paused.contains(operation) else { return (false, []) }
                state.held.append((operation, continuation))
                let count = state.held.filter { $0.0 == operation }.count
                let arrived = state.arrivals.filter { $0.0 == operation && $0.1 <= count }
                state.arrivals.removeAll { $0.0 == operation && $0.1 <= count }
                return (true, arrived.map(\.2))
            }
            for waiter in arrived { waiter.resume() }
            if !isHeld { continuation.resume() }
        }
    }
}
