// The digest table says, for a point, what each part of the volume that the point holds must
// read as. The README has its bytes; this file has them in code, and nothing else does.
//
// What every table keeps, and the reader enforces:
// - records ascend and do not overlap;
// - a data record is exactly one grid cell, the volume's last one cut at the exact end;
// - a zero record begins on a cell and ends on one or at the volume's end;
// - a cell of nothing but zeroes is never a data record, so that equal content has equal records.

import BlockCore

/// One record of a digest table: what a part of the volume must read as.
struct TableRecord: Hashable {
    var range: ByteRange
    /// The digest of one cell of data; nil where the range reads as zeroes.
    var digest: CellDigest?
}

/// The shape of a digest table and of its volume: all that is needed to check a record.
struct DigestTableHeader: Hashable {
    static let magic = Array("TIDEMDIG".utf8)
    static let formatVersion: UInt32 = 1
    static let lengthBytes = 64
    static let zeroFlag: UInt64 = 1 << 63

    var algorithm: DigestAlgorithm
    var gridBytes: UInt64
    /// The exact length of the volume at the point.
    var volumeBytes: UInt64
    var recordCount: UInt64 = 0

    /// The length of one record.
    var recordBytes: Int { 16 + algorithm.digestBytes }

    /// The length of the whole table; nil if the record count is absurd.
    var tableBytes: UInt64? {
        let (records, overflow) = recordCount.multipliedReportingOverflow(by: UInt64(recordBytes))
        guard !overflow, records < 1 << 62 else { return nil }
        return UInt64(Self.lengthBytes) + records
    }

    /// The length of the cell that begins at `offset`: the grid's, or less at the volume's end.
    func cellBytes(at offset: UInt64) -> UInt64 { min(gridBytes, volumeBytes - offset) }

    /// The header's bytes.
    func encoded() -> [UInt8] {
        var bytes = Self.magic
        for field in [Self.formatVersion, algorithm.code, UInt32(recordBytes), 0] {
            withUnsafeBytes(of: field.littleEndian) { bytes.append(contentsOf: $0) }
        }
        for field in [gridBytes, volumeBytes, recordCount, 0, 0] {
            withUnsafeBytes(of: field.littleEndian) { bytes.append(contentsOf: $0) }
        }
        return bytes
    }

    /// Reads a header; `place` is what messages call the table.
    init(decoding bytes: [UInt8], place: String) throws(BlockError) {
        func refuse(_ kind: BlockError.Kind, _ detail: String) -> BlockError {
            BlockError(kind, "read the digest table", on: place, detail: detail)
        }
        func field(_ offset: Int, _ count: Int) -> UInt64 {
            bytes[offset..<offset + count].reversed().reduce(0) { $0 << 8 | UInt64($1) }
        }
        guard bytes.count == Self.lengthBytes, Array(bytes.prefix(8)) == Self.magic else {
            throw refuse(.corrupt, "it does not begin as a digest table does")
        }
        guard field(8, 4) == Self.formatVersion else {
            throw refuse(.unsupported, "format version \(field(8, 4)); this version reads 1")
        }
        guard let algorithm = DigestAlgorithm.allCases.first(where: { $0.code == field(12, 4) })
        else { throw refuse(.unsupported, "unknown digest algorithm \(field(12, 4))") }
        self.algorithm = algorithm
        gridBytes = field(24, 8)
        volumeBytes = field(32, 8)
        recordCount = field(40, 8)
        guard field(16, 4) == recordBytes, field(20, 4) == 0, bytes[48...].allSatisfy({ $0 == 0 })
        else { throw refuse(.corrupt, "the header contradicts itself") }
        guard Grid.isValid(gridBytes), volumeBytes <= Grid.volumeBytesMax, tableBytes != nil else {
            throw refuse(.corrupt, "the header's grid, volume size or record count is absurd")
        }
    }

    init(algorithm: DigestAlgorithm, gridBytes: UInt64, volumeBytes: UInt64) {
        self.algorithm = algorithm
        self.gridBytes = gridBytes
        self.volumeBytes = volumeBytes
    }
}

extension DigestAlgorithm {
    /// The algorithm's number in a table's header.
    var code: UInt32 {
        switch self {
        case .xxh3: 1
        case .sha256: 2
        }
    }
}

extension DigestTableHeader {
    /// Puts `record` into `bytes`, which are one record long.
    func encode(_ record: TableRecord, into bytes: UnsafeMutableRawBufferPointer) {
        let flag = record.digest == nil ? Self.zeroFlag : 0
        bytes.storeBytes(of: record.range.offset.littleEndian, as: UInt64.self)
        bytes.storeBytes(
            of: (record.range.lengthBytes | flag).littleEndian, toByteOffset: 8, as: UInt64.self)
        let digest = UnsafeMutableRawBufferPointer(rebasing: bytes[16...])
        (record.digest ?? .none).store(into: digest)
    }

    /// The record in `bytes`, which are one record long; nothing about it is checked.
    func decode(_ bytes: UnsafeRawBufferPointer) -> TableRecord {
        let offset = UInt64(littleEndian: bytes.loadUnaligned(as: UInt64.self))
        let length = UInt64(
            littleEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        let digest = CellDigest(loading: UnsafeRawBufferPointer(rebasing: bytes[16...]))
        return TableRecord(
            range: ByteRange(offset: offset, lengthBytes: length & ~Self.zeroFlag),
            digest: length & Self.zeroFlag == 0 ? digest : nil)
    }

    /// What is wrong with `record` as the successor of one that ended at `end`; nil if nothing is.
    func fault(of record: TableRecord, after end: UInt64) -> String? {
        let range = record.range
        guard range.offset >= end else { return "records overlap or do not ascend" }
        guard range.offset < volumeBytes, range.lengthBytes > 0,
            range.lengthBytes <= volumeBytes - range.offset
        else { return "a record is empty or reaches beyond the volume's end" }
        guard range.offset % gridBytes == 0 else { return "a record does not begin on a cell" }
        if record.digest == nil {
            guard range.end % gridBytes == 0 || range.end == volumeBytes else {
                return "a zero record does not end on a cell"
            }
        } else if range.lengthBytes != cellBytes(at: range.offset) {
            return "a data record is not exactly one cell"
        }
        return nil
    }
}
