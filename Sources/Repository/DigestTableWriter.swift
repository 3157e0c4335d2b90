import BlockCore

/// Writes a digest table record by record, in ascending order, with one small buffer.
///
/// Zero records that touch become one. Nothing about it is safe to share; the calls may block.
final class DigestTableWriter {
    private let file: any StorageFile
    private var header: DigestTableHeader
    private let buffer: AlignedBuffer
    private var buffered = 0
    private var position: UInt64
    private var pendingZero: ByteRange?
    private var end: UInt64 = 0

    /// The bytes of the volume that the records written so far describe as data and as zeroes.
    private(set) var dataBytes: UInt64 = 0
    private(set) var zeroBytes: UInt64 = 0

    private static let bufferBytes = 256 << 10

    /// Begins a table in `file`, which is empty.
    init(file: any StorageFile, header: DigestTableHeader) {
        self.file = file
        self.header = header
        self.header.recordCount = 0
        buffer = BufferPool.shared.take(Self.bufferBytes)
        position = UInt64(DigestTableHeader.lengthBytes)
    }

    /// Adds a record. One that does not follow the last throws `invalid`: the same bytes of the
    /// volume were handed in twice, or were not aligned.
    func append(_ record: TableRecord) throws(BlockError) {
        if let fault = header.fault(of: record, after: end) {
            throw BlockError(
                .invalid, "add to the digest table", on: file.path, range: record.range,
                detail: "\(fault); each range is written once")
        }
        if record.digest != nil {
            try writePendingZero()
            try write(record)
            dataBytes += record.range.lengthBytes
        } else {
            if let zero = pendingZero, zero.end == record.range.offset {
                pendingZero = ByteRange(offset: zero.offset, end: record.range.end)
            } else {
                try writePendingZero()
                pendingZero = record.range
            }
            zeroBytes += record.range.lengthBytes
        }
        end = record.range.end
    }

    /// Completes the table and makes it durable; its header is returned.
    func finish() throws(BlockError) -> DigestTableHeader {
        try writePendingZero()
        try writeBuffer()
        try header.encoded().withBytes { (bytes) throws(BlockError) in
            try file.write(at: 0, from: bytes)
        }
        try file.flush()
        return header
    }

    private func writePendingZero() throws(BlockError) {
        guard let zero = pendingZero else { return }
        pendingZero = nil
        try write(TableRecord(range: zero, digest: nil))
    }

    private func write(_ record: TableRecord) throws(BlockError) {
        let length = header.recordBytes
        if buffered + length > buffer.capacityBytes { try writeBuffer() }
        header.encode(
            record,
            into: UnsafeMutableRawBufferPointer(start: buffer.base + buffered, count: length)
        )
        buffered += length
        header.recordCount += 1
    }

    private func writeBuffer() throws(BlockError) {
        guard buffered > 0 else { return }
        try file.write(at: position, from: buffer.prefix(buffered).readOnlyBytes)
        position += UInt64(buffered)
        buffered = 0
    }
}
