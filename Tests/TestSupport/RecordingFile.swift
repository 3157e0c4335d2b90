package import BlockCore
import Synchronization

// Records what is done to a file, and replays any crash from it.
//
// The model of a crash: an operation is durable once a `flush` that began after it has returned. A
// durable write is durable at once, and with it every change of the file's size that came before
// it, as fdatasync promises; other operations before it need not be. Of those that are not durable
// any subset may have reached the medium. Operations are recorded in the order in which they took
// effect: one at a time, under a lock; those of several files are numbered by one clock.

/// Numbers the operations of one file, or of several, from 0 in the order in which they came.
package final class OperationClock: Sendable {
    private let next = Mutex(0)

    package init() {}

    /// How many there were.
    package var count: Int { next.withLock { $0 } }

    fileprivate func tick() -> Int {
        next.withLock { next in
            defer { next += 1 }
            return next
        }
    }
}

/// A file that passes everything on, records what changes it, and fails what it is told to.
package final class RecordingFile: StorageFile {
    /// Something that changed the file, or made changes durable.
    package enum Operation: Sendable {
        case write(offset: UInt64, bytes: [UInt8], isDurable: Bool)
        case zero(ByteRange)
        case truncate(UInt64)
        case flush

        /// Its name, for `fail`.
        package var kind: Kind {
            switch self {
            case .write(_, _, let isDurable): isDurable ? .durableWrite : .write
            case .zero: .zero
            case .truncate: .truncate
            case .flush: .flush
            }
        }
    }

    /// What can be made to fail.
    package enum Kind: String, Sendable, CaseIterable {
        case read, write, durableWrite, zero, truncate, flush
    }

    private struct Fault {
        /// The count at which it fails.
        let number: Int
        /// Whether all later ones do as well.
        let isLasting: Bool
        /// Whether what changes the file does so, and fails only then.
        let hasEffect: Bool
        let error: BlockError
    }

    private struct State {
        var operations: [Operation] = []
        var numbers: [Int] = []
        var counts: [Kind: Int] = [:]
        var faults: [Kind: Fault] = [:]
    }

    package let base: any StorageFile
    /// The content before the first recorded operation.
    package let start: [UInt8]
    private let clock: OperationClock
    private let state = Mutex(State())

    /// Records what is done to `base` from now on, numbered by `clock`; its content is read for a
    /// start.
    package init(
        _ base: any StorageFile, clock: OperationClock = OperationClock()
    ) throws(BlockError) {
        self.base = base
        self.clock = clock
        var bytes = [UInt8](repeating: 0, count: Int(try base.sizeBytes()))
        try bytes.withMutableBytes { (bytes) throws(BlockError) in
            try base.read(at: 0, into: bytes)
        }
        start = bytes
    }

    package var path: String { base.path }
    package var isReadOnly: Bool { base.isReadOnly }

    /// What was recorded so far.
    package var operations: [Operation] { state.withLock { $0.operations } }

    /// The clock's numbers of what was recorded so far.
    package var numbers: [Int] { state.withLock { $0.numbers } }

    /// How many operations were recorded so far.
    package var count: Int { state.withLock { $0.operations.count } }

    /// How many of `kind` came, failed ones included.
    package func count(_ kind: Kind) -> Int { state.withLock { $0.counts[kind] ?? 0 } }

    /// Makes the `number`th operation of `kind` from now, the next being 1, fail, before it has any
    /// effect or `afterEffect`; and all that come after it, if `lasting`.
    package func fail(
        _ kind: Kind, number: Int = 1, lasting: Bool = false, afterEffect: Bool = false,
        with error: BlockError = BlockError(.io, "do as told", on: "fault")
    ) {
        state.withLock {
            $0.faults[kind] = Fault(
                number: $0.counts[kind, default: 0] + number, isLasting: lasting,
                hasEffect: afterEffect, error: error)
        }
    }

    /// Forgets all faults.
    package func heal() { state.withLock { $0.faults = [:] } }

    package func sizeBytes() throws(BlockError) -> UInt64 { try base.sizeBytes() }

    package func read(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) {
        try meetFault(.read)
        try base.read(at: offset, into: destination)
    }

    package func readNow(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        try meetFault(.read)
        return try base.readNow(at: offset, into: destination)
    }

    package func write(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) {
        let bytes = Array(source)
        try record(.write(offset: offset, bytes: bytes, isDurable: false)) {
            (base) throws(BlockError) in
            try bytes.withBytes { (bytes) throws(BlockError) in
                try base.write(at: offset, from: bytes)
            }
        }
    }

    package func writeDurably(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) {
        let bytes = Array(source)
        try record(.write(offset: offset, bytes: bytes, isDurable: true)) {
            (base) throws(BlockError) in
            try bytes.withBytes { (bytes) throws(BlockError) in
                try base.write(at: offset, from: bytes)
            }
        }
    }

    package func flush() throws(BlockError) {
        try record(.flush) { (base) throws(BlockError) in try base.flush() }
    }

    package func startWriteback(_ range: ByteRange) { base.startWriteback(range) }

    package func truncate(toBytes size: UInt64) throws(BlockError) {
        try record(.truncate(size)) { (base) throws(BlockError) in
            try base.truncate(toBytes: size)
        }
    }

    package func writeZeroes(_ range: ByteRange, mayUnmap: Bool) throws(BlockError) {
        try record(.zero(range)) { (base) throws(BlockError) in
            try base.writeZeroes(range, mayUnmap: mayUnmap)
        }
    }

    package func deallocate(_ range: ByteRange) throws(BlockError) -> Bool {
        try record(.zero(range)) { (base) throws(BlockError) in
            try base.writeZeroes(range, mayUnmap: true)
        }
        return true
    }

    package func nextData(in range: ByteRange) throws(BlockError) -> ByteRange? {
        try base.nextData(in: range)
    }

    private func record(
        _ operation: Operation, _ body: (any StorageFile) throws(BlockError) -> Void
    ) throws(BlockError) {
        let fault = nextFault(operation.kind)
        if let fault, !fault.hasEffect { throw fault.error }
        try state.withLock { (state) throws(BlockError) in
            try body(base)
            state.operations.append(operation)
            state.numbers.append(clock.tick())
        }
        if let fault { throw fault.error }
    }

    private func meetFault(_ kind: Kind) throws(BlockError) {
        if let fault = nextFault(kind) { throw fault.error }
    }

    /// Counts an operation of `kind`; the fault that it meets, if any.
    private func nextFault(_ kind: Kind) -> Fault? {
        state.withLock { state in
            state.counts[kind, default: 0] += 1
            guard let fault = state.faults[kind] else { return nil }
            let count = state.counts[kind]!
            return count == fault.number || count > fault.number && fault.isLasting ? fault : nil
        }
    }
}

extension [RecordingFile.Operation] {
    /// For a crash at the end of the first `count` operations: the index of each that may be lost
    /// in part or whole. If the last one was `unfinished`, it may be, too, and made nothing
    /// durable.
    package func volatileIndices(before count: Int, unfinished: Bool) -> [Int] {
        var result: [Int] = []
        for index in 0..<count {
            switch self[index] {
            case .flush where unfinished && index == count - 1: break
            case .flush: result = []
            case .write(_, _, isDurable: true) where unfinished && index == count - 1:
                result.append(index)
            case .write(_, _, isDurable: true):
                result.removeAll { if case .truncate = self[$0] { true } else { false } }
            case .write, .zero, .truncate: result.append(index)
            }
        }
        return result
    }

    /// Does the first `count` operations to `file`, without those of `lost`, and with each sector
    /// of those of `torn` or without it as chance will have it.
    package func replay(
        _ count: Int, on file: MemoryFile, without lost: Set<Int>, torn: Set<Int>,
        using random: inout SplitMix64
    ) {
        for index in 0..<count where !lost.contains(index) {
            guard torn.contains(index), case .write(let offset, let bytes, _) = self[index] else {
                self[index].apply(to: file)
                continue
            }
            var done = 0
            while done < bytes.count {
                let next = Swift.min(
                    done + 512 - (Int(offset) + done) % 512, bytes.count)
                if Bool.random(using: &random) {
                    file.put([UInt8](bytes[done..<next]), at: Int(offset) + done)
                }
                done = next
            }
        }
    }
}

extension RecordingFile.Operation {
    /// Does the operation to `file`.
    package func apply(to file: MemoryFile) {
        switch self {
        case .write(let offset, let bytes, _): file.put(bytes, at: Int(offset))
        case .zero(let range): file.writeZeroes(range, mayUnmap: true)
        case .truncate(let size): file.truncate(toBytes: size)
        case .flush: break
        }
    }
}
