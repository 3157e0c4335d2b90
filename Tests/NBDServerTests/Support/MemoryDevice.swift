import BlockCore
import Synchronization

/// A device in memory that counts what is done to it, and can be slow, stuck or broken.
///
/// `@unchecked Sendable` is true because `memory` is touched only with `state` locked.
final class MemoryDevice: BlockDevice, @unchecked Sendable {
    /// How many operations of each kind were carried out.
    struct Counts: Equatable {
        var readsNow = 0
        var writesNow = 0
        var reads = 0
        var writes = 0
        var flushes = 0
        /// Those that have begun and not ended.
        var gradualWrites = 0
        var discards = 0
        /// `mayUnmap` of each write of zeroes.
        var unmaps: [Bool] = []
        /// What was written since the last flush began.
        var unflushedBytes = 0
    }

    private struct State {
        var allocated: [Bool]
        var counts = Counts()
        var answersNow: Bool
        var failure: BlockError.Kind?
        var isHeld = false
        var held: [CheckedContinuation<Void, Never>] = []
    }

    let nodeName = "memory"
    let lengthBytes: UInt64
    let isReadOnly: Bool
    let allocationUnitBytes: UInt64 = 4096
    private let memory: UnsafeMutableRawBufferPointer
    private let state: Mutex<State>

    /// A device of zeroes. Without `answersNow` it refuses everything that its now face is asked.
    init(lengthBytes: Int, answersNow: Bool = true, isReadOnly: Bool = false) {
        self.lengthBytes = UInt64(lengthBytes)
        self.isReadOnly = isReadOnly
        memory = .allocate(byteCount: lengthBytes, alignment: 4096)
        memory.initializeMemory(as: UInt8.self, repeating: 0)
        state = Mutex(
            State(
                allocated: Array(repeating: false, count: (lengthBytes + 4095) / 4096),
                answersNow: answersNow))
    }

    deinit { memory.deallocate() }

    var counts: Counts { state.withLock { $0.counts } }

    /// The content of `range`.
    func bytes(_ offset: Int, _ count: Int) -> [UInt8] {
        state.withLock { _ in Array(memory[offset..<offset + count]) }
    }

    /// Every operation from now on fails with `kind`; nil ends that.
    func fail(with kind: BlockError.Kind?) { state.withLock { $0.failure = kind } }

    /// The now face refuses everything from now on.
    func refuseNow() { state.withLock { $0.answersNow = false } }

    /// Every later-face operation from now on waits until `release`.
    func hold() { state.withLock { $0.isHeld = true } }

    /// Lets what `hold` stopped go on.
    func release() {
        let held = state.withLock { state in
            state.isHeld = false
            defer { state.held = [] }
            return state.held
        }
        for continuation in held { continuation.resume() }
    }

    /// How many operations wait for `release`.
    var heldCount: Int { state.withLock { $0.held.count } }

    func tryRead(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        guard state.withLock({ $0.answersNow }) else { return .refused }
        try change("read") { $0.readsNow += 1 }
        copyOut(offset, destination)
        return .done
    }

    func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool {
        guard state.withLock({ $0.answersNow }) else { return false }
        try change("write") {
            $0.writesNow += 1
            $0.unflushedBytes += source.count
        }
        copyIn(offset, source)
        return true
    }

    func tryBeginWrite(_ range: ByteRange) throws(BlockError) -> (any GradualWrite)? {
        guard state.withLock({ $0.answersNow }) else { return nil }
        state.withLock { $0.counts.gradualWrites += 1 }
        return MemoryWrite(self)
    }

    fileprivate func endGradualWrite() { state.withLock { $0.counts.gradualWrites -= 1 } }

    func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        await pause()
        try change("read") { $0.reads += 1 }
        copyOut(offset, destination.bytes)
    }

    func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        await pause()
        try change("write") {
            $0.writes += 1
            $0.unflushedBytes += source.count
        }
        copyIn(offset, source.readOnlyBytes)
    }

    func writeZeroes(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
        await pause()
        try change("write zeroes") { $0.unmaps.append(mayUnmap) }
        zero(range, isHole: mayUnmap)
    }

    func discard(_ range: ByteRange) async throws(BlockError) {
        await pause()
        try change("discard") { $0.discards += 1 }
        zero(range, isHole: true)
    }

    func flush() async throws(BlockError) {
        await pause()
        try change("flush") {
            $0.flushes += 1
            $0.unflushedBytes = 0
        }
    }

    func extents(in range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
        await pause()
        try change("map") { _ in }
        return state.withLock { state in
            var result: [Extent] = []
            var position = range.offset
            while position < range.end {
                let end = min((position + 1).alignedUp(to: 4096), range.end)
                let isHole = !state.allocated[Int(position / 4096)]
                let extent = Extent(
                    range: ByteRange(offset: position, end: end), isZero: isHole, isHole: isHole)
                if result.count == limit, let last = result.last, !last.hasSameStatus(as: extent) {
                    break
                }
                result.appendMerging(extent)
                position = end
            }
            return result
        }
    }

    func close() async throws(BlockError) {}

    private func pause() async {
        await withCheckedContinuation { continuation in
            let goesOn = state.withLock { state in
                if state.isHeld { state.held.append(continuation) }
                return !state.isHeld
            }
            if goesOn { continuation.resume() }
        }
    }

    private func change(
        _ operation: String, _ count: (inout Counts) -> Void
    ) throws(BlockError) {
        try state.withLock { (state) throws(BlockError) in
            if let kind = state.failure {
                throw BlockError(kind, operation, on: nodeName, detail: "planned failure")
            }
            count(&state.counts)
        }
    }

    private func copyOut(_ offset: UInt64, _ target: UnsafeMutableRawBufferPointer) {
        state.withLock { _ in
            let start = Int(offset)
            target.copyMemory(from: .init(rebasing: memory[start..<start + target.count]))
        }
    }

    private func copyIn(_ offset: UInt64, _ source: UnsafeRawBufferPointer) {
        state.withLock { state in
            let start = Int(offset)
            UnsafeMutableRawBufferPointer(rebasing: memory[start..<start + source.count])
                .copyMemory(from: source)
            for block in start / 4096...(start + source.count - 1) / 4096 {
                state.allocated[block] = true
            }
        }
    }

    private func zero(_ range: ByteRange, isHole: Bool) {
        state.withLock { state in
            UnsafeMutableRawBufferPointer(rebasing: memory[Int(range.offset)..<Int(range.end)])
                .initializeMemory(as: UInt8.self, repeating: 0)
            let inner = range.alignedInward(to: 4096)
            guard !inner.isEmpty, inner.end <= range.end else { return }
            for block in Int(inner.offset / 4096)..<Int(inner.end / 4096) {
                state.allocated[block] = !isHole
            }
        }
    }
}

private final class MemoryWrite: GradualWrite {
    private let device: MemoryDevice

    init(_ device: MemoryDevice) { self.device = device }

    func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool {
        try device.tryWrite(at: offset, from: source)
    }

    func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        try await device.write(at: offset, from: source)
    }

    func end() { device.endGradualWrite() }
}
