package import BlockCore

/// A filter that fails the requests that its rules say.
package final class FaultInjection: BlockFilter {
    package let child: any BlockDevice
    private let rules: FaultRules

    private struct State: Sendable {
        var number: UInt64 = 1
        /// The rules that a fault for once has used up.
        var spent: Set<Int> = []
        /// The rules whose faults are armed.
        var armed: [Int] = []
    }

    private let state = HostMutex(State())

    package init(_ child: any BlockDevice, rules: FaultRules) {
        self.child = child
        self.rules = rules
        fire(.none)
    }

    package func canZeroFast(_ range: ByteRange, mayUnmap: Bool) -> Bool { false }

    /// What may fail is for the face that waits.
    package func tryRead(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        let range = ByteRange(offset: offset, lengthBytes: UInt64(destination.count))
        try checkInside(range, "read")
        guard isIdle else { return destination.isEmpty ? .done : .refused }
        return try child.tryRead(at: offset, into: destination)
    }

    package func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool {
        let range = ByteRange(offset: offset, lengthBytes: UInt64(source.count))
        try checkInside(range, "write")
        guard isIdle else { return source.isEmpty }
        return try child.tryWrite(at: offset, from: source)
    }

    package func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        let range = ByteRange(offset: offset, lengthBytes: UInt64(destination.count))
        try meet(.readAIO, .read, range, "read")
        try await child.read(at: offset, into: destination)
    }

    package func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        let range = ByteRange(offset: offset, lengthBytes: UInt64(source.count))
        try meet(.writeAIO, .write, range, "write")
        try await child.write(at: offset, from: source)
    }

    package func writeZeroes(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
        try meet(.zeroWrite, .writeZeroes, range, "write zeroes")
        try await child.writeZeroes(range, mayUnmap: mayUnmap)
    }

    package func discard(_ range: ByteRange) async throws(BlockError) {
        try meet(nil, .discard, range, "discard")
        try await child.discard(range)
    }

    package func flush() async throws(BlockError) {
        fire(.flushToOS)
        try meet(.flushToDisk, .flush, nil, "flush")
        try await child.flush()
    }

    package func extents(in range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
        try meet(nil, .blockStatus, range, "map")
        return try await child.extents(in: range, limit: limit)
    }

    /// Closing is no request, and does not fail for a rule.
    package func close() async throws(BlockError) { try await child.close() }

    /// Whether no rule is left that could ever do anything.
    private var isIdle: Bool {
        state.withLock { $0.spent.count == rules.faults.count }
    }

    /// Fires `event`, then fails if an armed fault says so. One beyond the end is the child's to refuse.
    private func meet(
        _ event: FaultEvent?, _ operation: FaultOperation, _ range: ByteRange?, _ name: String
    ) throws(BlockError) {
        if let range { try checkInside(range, name) }
        if range?.isEmpty == true { return }
        if let event { fire(event) }
        guard let fault = takeFault(operation, range) else { return }
        throw .system(name, on: nodeName, errno: fault.errno, range: range)
    }

    private func fire(_ event: FaultEvent) {
        state.withLock { state in
            let number = state.number
            let armed = rules.faults.indices.filter { index in
                let rule = rules.faults[index]
                return rule.event == event && !state.spent.contains(index)
                    && (rule.state ?? number) == number
            }
            if !armed.isEmpty { state.armed = armed }
            for change in rules.stateChanges
            where change.event == event && (change.state ?? number) == number {
                state.number = change.newState
            }
        }
    }

    private func takeFault(_ operation: FaultOperation, _ range: ByteRange?) -> InjectedFault? {
        state.withLock { state in
            let index = state.armed.first { index in
                let fault = rules.faults[index]
                guard fault.operations.contains(operation) else { return false }
                guard let sector = fault.sector else { return true }
                // A flush touches no sector.
                return range?.overlaps(ByteRange(offset: sector << 9, lengthBytes: 512)) == true
            }
            guard let index else { return nil }
            if rules.faults[index].isOnce {
                state.spent.insert(index)
                state.armed.removeAll { $0 == index }
            }
            return rules.faults[index]
        }
    }
}
