import CFileJournal
import TestSupport

/// One thing that happened to the files of a recorded agent.
struct JournalRecord {
    /// What happened; `CFileJournal` says what the other members mean for each.
    enum Kind: UInt32 {
        case write = 1
        case truncate, zero, allocate, sync, create, makeDirectory, remove, rename, link
        case syncDirectory, note
    }

    let kind: Kind
    let isDurable: Bool
    let inode: UInt64
    let offset: Int
    let lengthBytes: Int
    let nanoseconds: Int64
    /// The first path, below the recorded folder: empty for that folder itself.
    let path: String
    let otherPath: String
    /// Where its data is in the journal; empty for a write of zeroes.
    let payload: Range<Int>
}

/// What a recorded agent did to its files, in order.
struct FileJournal {
    let bytes: [UInt8]
    let records: [JournalRecord]
    /// The positions of the notes among the records: the clock that the models go by.
    let notes: [Int]

    init(path: String, root: String) throws {
        bytes = try readFile(path)
        var records: [JournalRecord] = []
        var notes: [Int] = []
        let headBytes = MemoryLayout<file_journal_record>.size
        var position = 0
        // A last record without its end belongs to an agent that was killed while writing it.
        while position + headBytes <= bytes.count {
            let head = bytes.withUnsafeBytes {
                $0.loadUnaligned(fromByteOffset: position, as: file_journal_record.self)
            }
            let paths = position + headBytes
            let payload = paths + Int(head.pathBytes)
            let end = payload + Int(head.payloadBytes)
            guard end <= bytes.count else { break }
            guard let kind = JournalRecord.Kind(rawValue: head.kind) else {
                throw Tool.Failure(description: "record \(records.count) is of kind \(head.kind)")
            }
            let names = bytes[paths..<payload].split(separator: 0, omittingEmptySubsequences: false)
                .map { String(decoding: $0, as: UTF8.self).dropFirst(root.utf8.count + 1) }
            if kind == .note { notes.append(records.count) }
            records.append(
                JournalRecord(
                    kind: kind, isDurable: head.flags & UInt32(FILE_JOURNAL_DURABLE) != 0,
                    inode: head.inode, offset: Int(head.offset), lengthBytes: Int(head.length),
                    nanoseconds: head.nanoseconds, path: String(names.first ?? ""),
                    otherPath: names.count > 1 ? String(names[1]) : "", payload: payload..<end))
            position = end
        }
        self.records = records
        self.notes = notes
    }

    /// How many notes there are before the record at `cut`.
    func noteCount(before cut: Int) -> Int {
        notes.firstIndex { $0 >= cut } ?? notes.count
    }

    /// Whether the record is a note of that text.
    func isNote(_ text: String, _ record: JournalRecord) -> Bool {
        record.kind == .note && bytes[record.payload].elementsEqual(text.utf8)
    }

    /// The record as text, without what differs from run to run.
    func shape(of record: JournalRecord) -> String {
        "\(record.kind) \(record.offset)+\(record.lengthBytes)"
    }
}
