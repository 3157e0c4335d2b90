import BlockCore
import Synchronization

/// A device whose pages arrive in memory when a test says so; its now face begins what is not there.
final class ColdDevice: BlockDevice {
    static let pageBytes = 4096

    private struct State {
        var isThere: [Bool]
        var waiting: [(page: Int, continuation: CheckedContinuation<Void, Never>)] = []
        var waitingMax = 0
        var laterOffsets: [UInt64] = []
        var failing: Set<Int> = []
    }

    let nodeName = "cold"
    let lengthBytes: UInt64
    let isReadOnly = true
    let allocationUnitBytes: UInt64 = 4096
    private let state: Mutex<State>

    init(pages: Int) {
        lengthBytes = UInt64(pages * Self.pageBytes)
        state = Mutex(State(isThere: Array(repeating: false, count: pages)))
    }

    /// What `page` holds.
    static func content(_ page: Int) -> [UInt8] {
        pattern(pageBytes, UInt8(truncatingIfNeeded: page))
    }

    /// Where reads of the later face began.
    var laterOffsets: [UInt64] { state.withLock { $0.laterOffsets } }

    /// How many reads of the later face waited at the same time, at most.
    var waitingMax: Int { state.withLock { $0.waitingMax } }

    /// How many wait now.
    var waitingCount: Int { state.withLock { $0.waiting.count } }

    /// Has `pages` arrive; those that fail do so when they are waited for.
    func arrive(_ pages: some Sequence<Int>, failing: Bool = false) {
        let woken = state.withLock { state in
            for page in pages {
                state.isThere[page] = !failing
                if failing { state.failing.insert(page) }
            }
            let known = state.failing
            defer { state.waiting.removeAll { state.isThere[$0.page] || known.contains($0.page) } }
            return state.waiting.filter { state.isThere[$0.page] || known.contains($0.page) }
        }
        for waiter in woken { waiter.continuation.resume() }
    }

    func tryRead(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        let first = Int(offset) / Self.pageBytes
        let count = destination.count / Self.pageBytes
        for page in 0..<count {
            guard state.withLock({ $0.isThere[first + page] }) else {
                return .begun(doneBytes: page * Self.pageBytes)
            }
            copy(first + page, to: destination, at: page)
        }
        return .done
    }

    func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        state.withLock { $0.laterOffsets.append(offset) }
        let first = Int(offset) / Self.pageBytes
        for page in 0..<destination.count / Self.pageBytes {
            await waitFor(first + page)
            guard state.withLock({ $0.isThere[first + page] }) else {
                throw BlockError(.io, "read", on: nodeName, detail: "planned failure")
            }
            copy(first + page, to: destination.bytes, at: page)
        }
    }

    private func waitFor(_ page: Int) async {
        await withCheckedContinuation { continuation in
            let isKnown = state.withLock { state in
                if state.isThere[page] || state.failing.contains(page) { return true }
                state.waiting.append((page, continuation))
                state.waitingMax = max(state.waitingMax, state.waiting.count)
                return false
            }
            if isKnown { continuation.resume() }
        }
    }

    private func copy(_ page: Int, to target: UnsafeMutableRawBufferPointer, at index: Int) {
        UnsafeMutableRawBufferPointer(rebasing: target[(index * Self.pageBytes)...])
            .copyBytes(from: Self.content(page))
    }

    func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool { false }

    func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        throw BlockError(.readOnly, "write", on: nodeName)
    }

    func writeZeroes(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
        throw BlockError(.readOnly, "write zeroes", on: nodeName)
    }

    func discard(_ range: ByteRange) async throws(BlockError) {
        throw BlockError(.readOnly, "discard", on: nodeName)
    }

    func flush() async throws(BlockError) {}

    func extents(in range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
        [Extent(range: range, isZero: false, isHole: false)]
    }

    func close() async throws(BlockError) {}
}
