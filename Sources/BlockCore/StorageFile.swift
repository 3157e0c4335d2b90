// The seam between an image format and what its bytes lie in.
//
// `HostFile` is the one implementation of the product. Tests put others in its place: memory, and a
// recorder that fails what it is told to and from whose record any crash can be replayed.

/// Bytes with an end that moves, in which an image format keeps an image. All of it may block but
/// for `readNow`; any thread may call it, and overlapping requests are the caller's to order.
package protocol StorageFile: AnyObject, Sendable {
    /// What messages call this file.
    var path: String { get }
    var isReadOnly: Bool { get }

    /// The present size in bytes.
    func sizeBytes() throws(BlockError) -> UInt64

    /// Fills `destination` from `offset`; what lies beyond the end of the file is zeroes.
    func read(at offset: UInt64, into destination: UnsafeMutableRawBufferPointer)
        throws(BlockError)

    /// Fills `destination` from `offset` if that needs no waiting; refused by a file that does not
    /// know how to try.
    func readNow(at offset: UInt64, into destination: UnsafeMutableRawBufferPointer)
        throws(BlockError) -> ReadAttempt

    /// Writes all of `source` at `offset`; it survives the end of the process, and a power loss
    /// once `flush` has returned.
    func write(at offset: UInt64, from source: UnsafeRawBufferPointer) throws(BlockError)

    /// Writes all of `source` at `offset` and returns when that, and the size that the file had
    /// before, is durable; whatever else was written may still not be.
    func writeDurably(at offset: UInt64, from source: UnsafeRawBufferPointer) throws(BlockError)

    /// Makes every completed operation durable, and the size with it.
    func flush() throws(BlockError)

    /// Starts writing `range` back to the medium without waiting: a hint.
    func startWriteback(_ range: ByteRange)

    /// Cuts or grows the file; what is new reads as zeroes.
    func truncate(toBytes size: UInt64) throws(BlockError)

    /// Makes `range` read as zeroes; with `mayUnmap` its storage may be given back.
    func writeZeroes(_ range: ByteRange, mayUnmap: Bool) throws(BlockError)

    /// Gives the storage of `range` back where that is possible, so that it reads as zeroes.
    /// Returns whether it did.
    func deallocate(_ range: ByteRange) throws(BlockError) -> Bool

    /// The next run of `range` that is stored, from its start: nil if none.
    func nextData(in range: ByteRange) throws(BlockError) -> ByteRange?
}

extension StorageFile {
    /// Whether all of `range` reads as zeroes. Holes are not read.
    package func isZero(_ range: ByteRange) throws(BlockError) -> Bool {
        var position = range.offset
        while position < range.end {
            guard let data = try nextData(in: ByteRange(offset: position, end: range.end)) else {
                return true
            }
            let end = min(data.end, data.offset + 1 << 20)
            let piece = BufferPool.shared.take(Int(end - data.offset)).prefix(
                Int(end - data.offset))
            try read(at: data.offset, into: piece.bytes)
            guard piece.readOnlyBytes.isAllZero else { return false }
            position = end
        }
        return true
    }
}
