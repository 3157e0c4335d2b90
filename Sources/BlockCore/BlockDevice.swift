// A block device has two faces.
//
// *Now*: `tryRead`, `tryWrite` and their like are synchronous and never wait. They either do the
// whole request (the page cache has it, the mapping is known, the region is announced) and return
// true, or return false without any side effect. The thread of a guest's connection calls them. A
// read may also tell that the medium has been asked: of such reads one thread can wait for many.
//
// *Later*: the asynchronous operations do whatever it takes: a cold page, an allocation, a flush,
// a network. What a first attempt refused goes here, and jobs use nothing else, in pieces of
// 64 KiB to 4 MiB.
//
// Every operation has an exact range inside `lengthBytes`; a request beyond the end throws
// `outOfRange` and changes nothing. Any offset and length are allowed: a driver does its own
// rounding. Overlapping writes in flight are the caller's to order (a volume locks ranges).

/// An opened image: a node of the block graph.
package protocol BlockDevice: AnyObject, Sendable {
    /// What messages call this node; for a file, its path.
    var nodeName: String { get }

    /// The exact length in bytes, of no particular alignment.
    var lengthBytes: UInt64 { get }

    /// Whether writes are refused with `readOnly`.
    var isReadOnly: Bool { get }

    /// The unit in which the node allocates storage; at least 512, a power of two. Requests that
    /// cover whole units are the cheapest.
    var allocationUnitBytes: UInt64 { get }

    /// How many nodes the chain has, this one included.
    var chainNodeCount: Int { get }

    /// Whether `writeZeroes` of `range` is sure to be much faster than writing as much data, as
    /// things are now. False promises nothing. Never waits.
    func canZeroFast(_ range: ByteRange, mayUnmap: Bool) -> Bool

    /// Fills `destination` from `offset`, if that needs no waiting.
    func tryRead(at offset: UInt64, into destination: UnsafeMutableRawBufferPointer)
        throws(BlockError) -> ReadAttempt

    /// Writes `source` at `offset`, if that needs no waiting.
    func tryWrite(at offset: UInt64, from source: UnsafeRawBufferPointer)
        throws(BlockError) -> Bool

    /// Begins a write of `range` whose content comes little by little; nil if that would wait, or if
    /// the device has no such writes: then the write is made when all is there.
    func tryBeginWrite(_ range: ByteRange) throws(BlockError) -> (any GradualWrite)?

    /// Fills `destination` from `offset`. Bytes that no node of the chain holds read as zeroes.
    func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError)

    /// Writes `source` at `offset`. When it returns the data is in the page cache or its like; a
    /// later `flush` makes it durable.
    func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError)

    /// Makes `range` read as zeroes. With `mayUnmap` the storage may be given back.
    func writeZeroes(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError)

    /// Gives the storage of `range` back where that is cheap. What it reads as afterwards is
    /// whatever this node then reads: the old data or zeroes, never a stale older version.
    func discard(_ range: ByteRange) async throws(BlockError)

    /// Makes every write that had returned before this call durable.
    func flush() async throws(BlockError)

    /// What is where in `range`: consecutive extents from its start, at most `limit` of them, at
    /// least one. They may end before `range` does; they never reach beyond it.
    func extents(in range: ByteRange, limit: Int) async throws(BlockError) -> [Extent]

    /// Flushes and releases the node. No operation may be in flight or follow.
    func close() async throws(BlockError)
}

extension BlockDevice {
    package func tryBeginWrite(_ range: ByteRange) throws(BlockError) -> (any GradualWrite)? { nil }

    package var chainNodeCount: Int { 1 }

    package func canZeroFast(_ range: ByteRange, mayUnmap: Bool) -> Bool { false }

    /// Throws `outOfRange` unless `range` lies inside the node.
    package func checkInside(_ range: ByteRange, _ operation: String) throws(BlockError) {
        let (end, overflow) = range.offset.addingReportingOverflow(range.lengthBytes)
        guard !overflow, end <= lengthBytes else {
            throw BlockError(
                .outOfRange, operation, on: nodeName, range: range,
                detail: "the end of the node is at \(lengthBytes)")
        }
    }

    /// All extents of `range`, gathered piece by piece.
    package func allExtents(in range: ByteRange) async throws(BlockError) -> [Extent] {
        var result: [Extent] = []
        var position = range.offset
        while position < range.end {
            let piece = try await extents(
                in: ByteRange(offset: position, end: range.end), limit: 1024)
            for extent in piece { result.appendMerging(extent) }
            guard let last = piece.last, last.range.end > position else {
                throw BlockError(.corrupt, "map", on: nodeName, range: range, detail: "no progress")
            }
            position = last.range.end
        }
        return result
    }
}
