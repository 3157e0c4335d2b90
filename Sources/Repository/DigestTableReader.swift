import BlockCore

/// Reads a digest table record by record with one small buffer, checking each record, and at the
/// end the SHA-256 of the whole file.
///
/// Nothing about it is safe to share; the calls may block.
final class DigestTableReader {
    let header: DigestTableHeader

    private let file: any StorageFile
    private let expectedSHA256: String?
    private let buffer: AlignedBuffer
    private var filled = 0
    private var consumed = 0
    private var position: UInt64
    private let tableBytes: UInt64
    private var end: UInt64 = 0
    private var hash = SHA256Stream()

    /// The SHA-256 of the file, once `next` has returned nil.
    private(set) var sha256: String?

    private static let bufferBytes = 64 << 10

    /// Opens the table at `path`. With `expected`, what the manifest says about it is held
    /// against it: its length now, its SHA-256 when the last record has been read.
    init(
        path: String, expected: Manifest.Extents? = nil, files: any FileSystem = HostFileSystem()
    ) throws(BlockError) {
        let file = try files.open(path, .readOnly)
        self.file = file
        expectedSHA256 = expected?.sha256
        buffer = BufferPool.shared.take(Self.bufferBytes)
        let sizeBytes = try file.sizeBytes()
        if let expected, expected.lengthBytes != sizeBytes {
            throw BlockError(
                .corrupt, "read the digest table", on: path,
                detail: "it has \(sizeBytes) bytes, \(expected.lengthBytes) are in the manifest")
        }
        var bytes = [UInt8](repeating: 0, count: DigestTableHeader.lengthBytes)
        try bytes.withMutableBytes { (bytes) throws(BlockError) in
            try file.read(at: 0, into: bytes)
        }
        header = try DigestTableHeader(decoding: bytes, place: path)
        guard header.tableBytes == sizeBytes else {
            throw BlockError(
                .corrupt, "read the digest table", on: path,
                detail: "\(header.recordCount) records do not make \(sizeBytes) bytes")
        }
        hash.update(bytes)
        position = UInt64(bytes.count)
        tableBytes = sizeBytes
    }

    /// The next record; nil after the last. A record that breaks the format's rules, and a file
    /// that is not the expected one, throw `corrupt`.
    func next() throws(BlockError) -> TableRecord? {
        guard consumed < filled || position < tableBytes else {
            try finish()
            return nil
        }
        if consumed == filled { try fill() }
        let bytes = UnsafeRawBufferPointer(
            start: buffer.base + consumed, count: header.recordBytes)
        let record = header.decode(bytes)
        if let fault = header.fault(of: record, after: end) {
            throw BlockError(
                .corrupt, "read the digest table", on: file.path, range: record.range,
                detail: fault)
        }
        consumed += header.recordBytes
        end = record.range.end
        return record
    }

    /// Reads what is left, so that the SHA-256 of the whole file is compared.
    func drain() throws(BlockError) {
        while try next() != nil {}
    }

    private func fill() throws(BlockError) {
        let whole = buffer.capacityBytes / header.recordBytes * header.recordBytes
        filled = Int(min(UInt64(whole), tableBytes - position))
        consumed = 0
        let bytes = buffer.prefix(filled)
        try file.read(at: position, into: bytes.bytes)
        hash.update(bytes.readOnlyBytes)
        position += UInt64(filled)
    }

    private func finish() throws(BlockError) {
        guard sha256 == nil else { return }
        let found = hash.text
        if let expectedSHA256, expectedSHA256 != found {
            throw BlockError(
                .corrupt, "read the digest table", on: file.path,
                detail: "its SHA-256 is \(found), \(expectedSHA256) is in the manifest")
        }
        sha256 = found
    }
}
