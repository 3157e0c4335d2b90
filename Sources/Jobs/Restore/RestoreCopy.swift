import BlockCore
import Repository
import Synchronization

// The copying of a restore: several workers take pieces of the point in ascending order, each
// proven by its digests before it is written. From time to time what has been written is flushed
// and the journal is told up to where nothing is missing; so an interruption costs about a tenth
// of the work. In what an interrupted run had flushed, pieces that are read back as they should be
// are not written again.

/// Copies a point to a destination.
final class RestoreCopy: Sendable {
    private struct State {
        /// Offsets of the pieces that workers are at.
        var inFlight: Set<UInt64> = []
        /// Everything below has been taken.
        var taken: UInt64 = 0
        var lost = LostRanges()
        let started = ContinuousClock.now
        var lastCheckpoint = ContinuousClock.now
        var failure: BlockError?

        /// Everything below is written by this run.
        var written: UInt64 { inFlight.min() ?? taken }
    }

    private static let workerCount = 4
    private static let checkpointIntervals = Duration.milliseconds(100)...Duration.seconds(10)
    private static let unitBytes = 64 << 10

    private let reader: PointReader
    private let destination: RestoreDestination
    private let job: Job
    private let state = Mutex(State())
    /// The kernel lets one write into a file at a time, and those that wait for it spin: better that
    /// they sleep here and leave the processor to those that read.
    private let turn = AsyncLock()
    private let writtenBytes = Counter()
    private let keptBytes = Counter()

    init(
        _ reader: PointReader, to destination: RestoreDestination, _ job: Job
    ) {
        self.reader = reader
        self.destination = destination
        self.job = job
    }

    /// The bytes that were stored, and those that an earlier run had stored.
    var storedBytes: (written: UInt64, kept: UInt64) { (writtenBytes.value, keptBytes.value) }

    /// What of the point could not be restored for certain.
    var lost: LostRanges { state.withLock { $0.lost } }

    /// Copies everything. On failure what was copied is flushed and noted, for another run.
    func run() async throws(BlockError) {
        try await job.withTasks(Self.workerCount) { () async throws(BlockError) in
            await withTaskGroup(of: Void.self) { group in
                for _ in 0..<Self.workerCount {
                    group.addTask(executorPreference: IOPool.background) { await self.work() }
                }
            }
        }
        if let failure = state.withLock({ $0.failure }) {
            try? await checkpoint()
            throw failure
        }
        let tail = ByteRange(
            offset: reader.lengthBytes,
            end: max(reader.lengthBytes, destination.device.lengthBytes))
        if !destination.isNew, !tail.isEmpty {
            try await destination.device.writeZeroes(tail, mayUnmap: true)
        }
    }

    /// Up to where nothing is missing. What an earlier run had flushed beyond that is still there.
    var completeBytes: UInt64 {
        max(state.withLock { $0.written }, destination.journal.flushedBytes)
    }

    private func work() async {
        defer { job.endTask() }
        do throws(BlockError) {
            while let piece = try take() {
                try await job.pausePoint()
                let lost = try await copy(piece)
                job.advance(by: piece.range.lengthBytes)
                if done(piece, lost) { try await checkpoint() }
            }
        } catch {
            state.withLock { $0.failure = $0.failure ?? error }
        }
    }

    private func take() throws(BlockError) -> PointPiece? {
        try state.withLock { (state) throws(BlockError) in
            guard state.failure == nil, let piece = try reader.next() else { return nil }
            state.inFlight.insert(piece.range.offset)
            state.taken = piece.range.end
            return piece
        }
    }

    /// Notes that a piece is written; true if it is time for a checkpoint.
    private func done(_ piece: PointPiece, _ lost: [LostRange]) -> Bool {
        state.withLock { state in
            state.inFlight.remove(piece.range.offset)
            state.lost.add(lost)
            let now = ContinuousClock.now
            let bounds = Self.checkpointIntervals
            let interval = min(
                max((now - state.started) / 10, bounds.lowerBound), bounds.upperBound)
            guard now - state.lastCheckpoint >= interval else { return false }
            state.lastCheckpoint = now
            return true
        }
    }

    private func checkpoint() async throws(BlockError) {
        let complete = completeBytes
        guard complete > destination.journal.flushedBytes else { return }
        try await destination.device.flush()
        try await IOPool.background.run { [destination] () throws(BlockError) in
            try destination.journal.record(complete)
        }
    }

    private func copy(_ piece: PointPiece) async throws(BlockError) -> [LostRange] {
        if piece.isZero {
            try await copyZeroes(piece)
            return reader.doubts(about: piece)
        }
        await MemoryBudget.shared.wait(for: piece.range.lengthBytes, for: .jobs)
        defer { MemoryBudget.shared.give(piece.range.lengthBytes, for: .jobs) }
        let content = BufferPool.shared.take(Int(piece.range.lengthBytes))
            .prefix(Int(piece.range.lengthBytes))
        if piece.range.end <= destination.journal.flushedBytes {
            try await job.insist(isRead: false) { () throws(BlockError) in
                try await destination.device.read(at: piece.range.offset, into: content)
            }
            if reader.matches(piece, content) {
                keptBytes.add(piece.range.lengthBytes)
                return reader.doubts(about: piece)
            }
        }
        try await job.admit(piece.range.lengthBytes)
        let lost = try await job.insist(isRead: true) { () throws(BlockError) in
            try await reader.read(piece, into: content)
        }
        try await write(content, at: piece.range.offset, hasOldData: hasOldData)
        return lost
    }

    /// Whether the destination may hold something where the point has zeroes: what it held before,
    /// or what an interrupted run wrote.
    private var hasOldData: Bool { !destination.isNew || destination.journal.isContinued }

    private func copyZeroes(_ piece: PointPiece) async throws(BlockError) {
        guard hasOldData else { return }
        if destination.isNew {
            let extents = try await destination.device.allExtents(in: piece.range)
            if extents.allSatisfy(\.isZero) { return }
        }
        try await writeZeroes(piece.range)
    }

    private func write(
        _ content: BufferSlice, at offset: UInt64, hasOldData: Bool
    ) async throws(BlockError) {
        var position = 0
        for run in content.nonZeroRuns(unitBytes: Self.unitBytes) {
            if hasOldData {
                try await writeZeroes(from: position, to: run.lowerBound, after: offset)
            }
            let part = content.slice(run.lowerBound, run.count)
            let place = offset + UInt64(run.lowerBound)
            try await job.insist(isRead: false) { () throws(BlockError) in
                try await store(part, at: place)
            }
            writtenBytes.add(UInt64(run.count))
            position = run.upperBound
        }
        if hasOldData { try await writeZeroes(from: position, to: content.count, after: offset) }
    }

    private func store(_ part: BufferSlice, at offset: UInt64) async throws(BlockError) {
        let device = destination.device
        guard destination.isNew else { return try await device.write(at: offset, from: part) }
        try await turn.withLock { () async throws(BlockError) in
            try await device.write(at: offset, from: part)
        }
    }

    private func writeZeroes(
        from start: Int, to end: Int, after offset: UInt64
    ) async throws(BlockError) {
        guard start < end else { return }
        try await writeZeroes(
            ByteRange(offset: offset + UInt64(start), lengthBytes: UInt64(end - start)))
    }

    private func writeZeroes(_ range: ByteRange) async throws(BlockError) {
        try await job.insist(isRead: false) { () throws(BlockError) in
            try await destination.device.writeZeroes(range, mayUnmap: true)
        }
    }
}

extension BufferSlice {
    /// The runs of whole units, the last one maybe shorter, that are not all zero.
    func nonZeroRuns(unitBytes: Int) -> [Range<Int>] {
        var runs: [Range<Int>] = []
        let bytes = readOnlyBytes
        var offset = 0
        while offset < count {
            let end = min(offset + unitBytes, count)
            if !UnsafeRawBufferPointer(rebasing: bytes[offset..<end]).isAllZero {
                if let last = runs.last, last.upperBound == offset {
                    runs[runs.count - 1] = last.lowerBound..<end
                } else {
                    runs.append(offset..<end)
                }
            }
            offset = end
        }
        return runs
    }
}
