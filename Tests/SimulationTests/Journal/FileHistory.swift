import Glibc
import TestSupport

/// What was done to the content of one file since it was created, or since a journal began.
struct FileHistory {
    private let base: DiskState.File
    /// Indexes of records, in order, with what of them matters here.
    private var operations: [(index: Int, record: JournalRecord)] = []
    /// How many operations came before the last sync.
    private var durableCount = 0

    init(base: DiskState.File) { self.base = base }

    mutating func add(_ record: JournalRecord, at index: Int) {
        if record.kind == .sync {
            durableCount = operations.count
        } else {
            operations.append((index, record))
        }
    }

    /// The file after a crash.
    func outcome(
        _ journal: FileJournal, isPowerLoss: Bool, _ random: inout SplitMix64
    ) -> DiskState.File {
        var file = base
        let durable = isPowerLoss ? durableCount : operations.count
        for (_, record) in operations[..<durable] { file.apply(record, journal) }
        let style = LossStyle(&random)
        var keep = style.keeper(of: operations.count - durable, &random)
        // A durable write brings the size that the file has by then with it, as fdatasync does.
        let sized = operations[durable...].lastIndex { $0.record.isDurable } ?? durable
        for (index, (_, record)) in operations.enumerated().dropFirst(durable) {
            let isSize = [.truncate, .allocate].contains(record.kind)
            if record.isDurable || isSize && index < sized {
                file.apply(record, journal)
            } else if case .torn(let sectorBytes) = style, [.write, .zero].contains(record.kind) {
                file.apply(record, journal, sectorBytes: sectorBytes) { keep.next(&random) }
            } else if keep.next(&random) {
                file.apply(record, journal)
            }
        }
        return file
    }
}

extension DiskState.File {
    /// Does what the record says, or of a write those sectors that `keeps` says.
    fileprivate mutating func apply(
        _ record: JournalRecord, _ journal: FileJournal, sectorBytes: Int? = nil,
        keeps: () -> Bool = { true }
    ) {
        modifiedNanoseconds = record.nanoseconds
        let end = record.offset + record.lengthBytes
        switch record.kind {
        case .truncate:
            if record.lengthBytes < bytes.count {
                bytes.removeLast(bytes.count - record.lengthBytes)
            } else {
                grow(to: record.lengthBytes)
            }
        case .allocate: grow(to: end)
        case .write, .zero:
            var start = record.offset
            while start < end {
                let next = sectorBytes.map { min(end, (start / $0 + 1) * $0) } ?? end
                if keeps() { put(record, journal, start..<next) }
                start = next
            }
        default: preconditionFailure("a record of \(record.kind) does nothing to a file's content")
        }
    }

    private mutating func put(_ record: JournalRecord, _ journal: FileJournal, _ part: Range<Int>) {
        var part = part
        if record.kind == .zero {
            part = min(part.lowerBound, bytes.count)..<min(part.upperBound, bytes.count)
        } else {
            grow(to: part.upperBound)
        }
        guard !part.isEmpty else { return }
        bytes.withUnsafeMutableBytes { bytes in
            let place = bytes.baseAddress! + part.lowerBound
            guard !record.payload.isEmpty else {
                memset(place, 0, part.count)
                return
            }
            journal.bytes.withUnsafeBytes { source in
                let start = record.payload.lowerBound + part.lowerBound - record.offset
                memcpy(place, source.baseAddress! + start, part.count)
            }
        }
    }

    private mutating func grow(to count: Int) {
        guard bytes.count < count else { return }
        // By whole blocks of memory: loops over bytes are slow without optimisation.
        bytes = [UInt8](unsafeUninitializedCapacity: count) { [bytes] buffer, initializedCount in
            bytes.withUnsafeBytes { old in
                if let start = old.baseAddress { memcpy(buffer.baseAddress!, start, old.count) }
            }
            memset(buffer.baseAddress! + bytes.count, 0, count - bytes.count)
            initializedCount = count
        }
    }
}
