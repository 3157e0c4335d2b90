import BlockCore
import Glibc
import Synchronization

/// A device of any length that reads as zeroes, forgets what is written, and remembers how it was
/// asked. Its length can change.
final class ZeroDevice: BlockDevice {
    /// What was asked of it.
    struct Asked {
        var zeroed: [ByteRange] = []
        var discarded: [ByteRange] = []
        var mapped: [ByteRange] = []
        var readBytes: UInt64 = 0
    }

    let nodeName = "zeroes"
    let isReadOnly = false
    let allocationUnitBytes: UInt64 = 4096
    let chainNodeCount: Int
    private let zeroesFast: Bool
    private let extent: @Sendable (UInt64) -> Extent
    private let length: Atomic<UInt64>
    private let asked = Mutex(Asked())
    private let failure = Mutex<UInt64?>(nil)
    private let pieceMicroseconds: UInt32

    /// Each operation takes `pieceMicroseconds`. `extent` tells what lies at an offset; its range
    /// may reach beyond what was asked.
    init(
        lengthBytes: UInt64, zeroesFast: Bool = false, chainNodeCount: Int = 1,
        pieceMicroseconds: UInt32 = 0,
        extent: @escaping @Sendable (UInt64) -> Extent = {
            Extent(range: ByteRange(offset: $0, end: .max), isZero: true, isHole: true)
        }
    ) {
        length = Atomic(lengthBytes)
        self.zeroesFast = zeroesFast
        self.chainNodeCount = chainNodeCount
        self.pieceMicroseconds = pieceMicroseconds
        self.extent = extent
    }

    var lengthBytes: UInt64 { length.load(ordering: .relaxed) }

    var requests: Asked { asked.withLock { $0 } }

    /// Changes the length.
    func resize(to lengthBytes: UInt64) { length.store(lengthBytes, ordering: .relaxed) }

    /// Has every operation fail that touches `offset`.
    func fail(at offset: UInt64) { failure.withLock { $0 = offset } }

    func canZeroFast(_ range: ByteRange, mayUnmap: Bool) -> Bool { zeroesFast && mayUnmap }

    func tryRead(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt { .refused }

    func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool { false }

    func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        try note(ByteRange(offset: offset, lengthBytes: UInt64(destination.count))) {
            $0.readBytes += $1.lengthBytes
        }
        destination.bytes.initializeMemory(as: UInt8.self, repeating: 0)
    }

    func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        try note(ByteRange(offset: offset, lengthBytes: UInt64(source.count))) { _, _ in }
    }

    func writeZeroes(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
        try note(range) { $0.zeroed.append($1) }
    }

    func discard(_ range: ByteRange) async throws(BlockError) {
        try note(range) { $0.discarded.append($1) }
    }

    func flush() async throws(BlockError) {}

    func extents(in range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
        try note(range) { $0.mapped.append($1) }
        var result: [Extent] = []
        var position = range.offset
        while position < range.end, result.count < limit {
            var next = extent(position)
            next.range = ByteRange(offset: position, end: min(next.range.end, range.end))
            result.appendMerging(next)
            position = next.range.end
        }
        return result
    }

    func close() async throws(BlockError) {}

    private func note(
        _ range: ByteRange, _ body: (inout Asked, ByteRange) -> Void
    ) throws(BlockError) {
        try checkInside(range, "do")
        if pieceMicroseconds > 0 { usleep(pieceMicroseconds) }
        if let place = failure.withLock({ $0 }), range.offset <= place, place < range.end {
            throw BlockError(.io, "do", on: nodeName, range: range, detail: "planned failure")
        }
        asked.withLock { body(&$0, range) }
    }
}
