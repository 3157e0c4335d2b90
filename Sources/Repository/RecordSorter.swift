// Workers finish out of order, a digest table is in order, and neither may cost memory without
// bound: a full of 1 TiB has 16 million records.
//
// So records gather in memory up to a limit. Past it the lower half of them, sorted, goes to a
// scratch file, as the continuation of the newest run there if it follows that run's end, else as
// a new run. The end merges the runs. Workers that take ascending ranges and are out of step by
// less than the limit, which is all that jobs do, make exactly one run; the worst order there is
// costs time in the merge, never correctness.

import BlockCore

/// Brings table records that come in any order into ascending order, with bounded memory.
///
/// Copies share the scratch file: only one of them may be used further.
struct RecordSorter: Sendable {
    private let header: DigestTableHeader
    private let directory: String
    private let files: any FileSystem
    private let recordsMax: Int
    private var pending: [TableRecord] = []
    private var scratch: (any StorageFile)?
    private var scratchBytes: UInt64 = 0
    private var runs: [Range<UInt64>] = []
    private var runEnd: UInt64 = 0

    /// - Parameters:
    ///   - directory: where the scratch file goes; it has no name and vanishes by itself.
    ///   - recordsMax: how many records stay in memory, of 56 bytes each.
    init(
        header: DigestTableHeader, directory: String, files: any FileSystem = HostFileSystem(),
        recordsMax: Int = 64 << 10
    ) {
        precondition(recordsMax >= 8)
        self.header = header
        self.directory = directory
        self.files = files
        self.recordsMax = recordsMax
    }

    /// Whether `spill` is due.
    var isFull: Bool { pending.count >= recordsMax }

    /// How many runs the scratch file holds.
    var runCount: Int { runs.count }

    /// Takes records over. Never blocks.
    mutating func add(_ records: [TableRecord]) {
        pending.append(contentsOf: records)
    }

    /// Moves a part of the records to the scratch file; may block.
    mutating func spill() throws(BlockError) {
        guard isFull else { return }
        sortPending()
        var first = pending.firstIndex { $0.range.offset >= runEnd } ?? pending.count
        if runs.isEmpty || pending.count - first < recordsMax / 4 {
            runs.append(scratchBytes..<scratchBytes)
            first = 0
        }
        let last = min(first + recordsMax / 2, pending.count)
        try write(pending[first..<last])
        runEnd = pending[last - 1].range.end
        pending.removeSubrange(first..<last)
    }

    /// Hands all records to `body` in ascending order; may block. Records that overlap come in
    /// some order: `body` is to find them.
    mutating func finish(_ body: (TableRecord) throws(BlockError) -> Void) throws(BlockError) {
        sortPending()
        guard let scratch else {
            for record in pending { try body(record) }
            return
        }
        var cursors = [RunCursor(records: pending)]
        for run in runs {
            cursors.append(try RunCursor(file: scratch, header: header, bytes: run))
        }
        while true {
            var lowest: Int?
            for index in cursors.indices {
                guard let offset = cursors[index].current?.range.offset else { continue }
                if let found = lowest, cursors[found].current!.range.offset <= offset { continue }
                lowest = index
            }
            guard let lowest, let record = cursors[lowest].current else { return }
            try body(record)
            try cursors[lowest].advance()
        }
    }

    private mutating func sortPending() {
        pending.sort { $0.range.offset < $1.range.offset }
    }

    private mutating func write(_ records: ArraySlice<TableRecord>) throws(BlockError) {
        let file: any StorageFile
        if let scratch { file = scratch } else { file = try files.openTemporary(in: directory) }
        scratch = file
        let length = header.recordBytes
        let buffer = BufferPool.shared.take(records.count * length)
        for (index, record) in records.enumerated() {
            let row = buffer.base + index * length
            header.encode(record, into: UnsafeMutableRawBufferPointer(start: row, count: length))
        }
        let bytes = buffer.prefix(records.count * length).readOnlyBytes
        try file.write(at: scratchBytes, from: bytes)
        scratchBytes += UInt64(bytes.count)
        runs[runs.count - 1] = runs[runs.count - 1].lowerBound..<scratchBytes
    }
}

/// One ascending run of records: in memory, or in a part of the scratch file.
private struct RunCursor {
    private(set) var current: TableRecord?

    private var records: ArraySlice<TableRecord>
    private let file: (any StorageFile)?
    private let header: DigestTableHeader?
    private var bytes: Range<UInt64>

    private static let recordsPerRead = 1024

    init(records: [TableRecord]) {
        self.records = records[...]
        file = nil
        header = nil
        bytes = 0..<0
        current = self.records.popFirst()
    }

    init(file: any StorageFile, header: DigestTableHeader, bytes: Range<UInt64>) throws(BlockError)
    {
        records = []
        self.file = file
        self.header = header
        self.bytes = bytes
        try advance()
    }

    mutating func advance() throws(BlockError) {
        if records.isEmpty { try fill() }
        current = records.popFirst()
    }

    private mutating func fill() throws(BlockError) {
        guard let file, let header, !bytes.isEmpty else { return }
        let length = header.recordBytes
        let count = min(bytes.count / length, Self.recordsPerRead)
        let buffer = BufferPool.shared.take(count * length)
        try file.read(at: bytes.lowerBound, into: buffer.prefix(count * length).bytes)
        records = ArraySlice(
            (0..<count).map { index in
                header.decode(
                    UnsafeRawBufferPointer(start: buffer.base + index * length, count: length))
            })
        bytes = bytes.lowerBound + UInt64(count * length)..<bytes.upperBound
    }
}
