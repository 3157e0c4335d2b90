import Bitmaps
import BlockCore
import Synchronization
import Volumes

// The copying of a mirror: what is due goes to the target, many requests at a time.
//
// A worker claims a run of due granules, asks the source's map for it, reads what is data and writes
// it. No two requests for the same range of the target are ever in flight, since a claim is a lock;
// what guests write meanwhile is due again when they are done. Zeroes stay zeroes, and are left out
// where the target has them already.

/// Copies what is due of a volume to a target.
final class MirrorCopy: Sendable {
    /// The longest run that a worker claims. Data of it is copied in pieces.
    private static let claimBytesMax: UInt64 = 4 << 20
    private static let pieceBytesMax: UInt64 = 1 << 20
    private static let workerCountMax: UInt64 = 16

    let volume: Volume
    let target: TargetImage
    let working: WorkingBitmap
    let options: MirrorOptions

    /// What was copied, zeroes and what was left out included.
    let doneBytes = Counter()
    /// What was sent to the target as data.
    let sentBytes = Counter()
    /// Where a target that was zero at first has been written; nil for another.
    private let written: DirtyBitmap?
    private let position = Atomic<UInt64>(0)

    init(
        volume: Volume, target: TargetImage, working: WorkingBitmap, options: MirrorOptions
    ) throws(BlockError) {
        self.volume = volume
        self.target = target
        self.working = working
        self.options = options
        written =
            target.isZero || options.isTargetZero
            ? try DirtyBitmap(
                lengthBytes: volume.lengthBytes, granularityBytes: working.granularityBytes) : nil
    }

    /// A request that failed, and on which side.
    struct Failure: Error {
        let error: BlockError
        let isRead: Bool
    }

    /// Copies what is due, from the start of the volume to its end. What became due behind the
    /// workers is for another pass, so this ends whatever guests do. The first failure ends it too,
    /// and its range is due again.
    ///
    /// `step` is called before each run, with nothing claimed, with the bytes of the one before.
    ///
    /// A worker that is done calls `ended`.
    func pass(
        workerCount: Int, ended: @escaping @Sendable () -> Void = {},
        step: @escaping @Sendable (UInt64) async throws(BlockError) -> Void = {
            (_) throws(BlockError) in
        }
    ) async -> Result<Void, Failure> {
        let failure = FirstFailure()
        position.store(0, ordering: .relaxed)
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<workerCount {
                group.addTask(executorPreference: IOPool.background) { [self] in
                    defer { ended() }
                    do throws(Failure) { try await work(step, until: failure) } catch {
                        failure.report(error)
                    }
                }
            }
        }
        return failure.value.map { .failure($0) } ?? .success(())
    }

    /// The first failure that several workers stop for.
    private final class FirstFailure: Sendable {
        private let first = Mutex<Failure?>(nil)

        var value: Failure? { first.withLock { $0 } }

        func report(_ failure: Failure) { first.withLock { $0 = $0 ?? failure } }
    }

    private func work(
        _ step: @Sendable (UInt64) async throws(BlockError) -> Void, until failure: FirstFailure
    ) async throws(Failure) {
        var copiedBytes: UInt64 = 0
        while failure.value == nil {
            do throws(BlockError) { try await step(copiedBytes) } catch {
                throw Failure(error: error, isRead: true)
            }
            guard let claim = nextClaim() else { return }
            try await copy(claim)
            copiedBytes = claim.range.lengthBytes
        }
    }

    /// How many workers the buffer is enough for.
    var workerCount: Int {
        Int(min(max(options.bufferBytes / Self.pieceBytesMax, 1), Self.workerCountMax))
    }

    /// The next run in ascending order.
    private func nextClaim() -> WorkingBitmap.Claim? {
        let claim = working.claim(
            from: position.load(ordering: .relaxed), lengthMax: claimBytes,
            unitBytes: target.unitBytes)
        // Only forward, whoever comes last: a pass over what guests are writing has to end.
        if let claim { position.max(claim.range.end, ordering: .relaxed) }
        return claim
    }

    private var claimBytes: UInt64 {
        min(max(options.bufferBytes, working.granularityBytes), Self.claimBytesMax)
    }

    private func copy(_ claim: WorkingBitmap.Claim) async throws(Failure) {
        do throws(Failure) { try await copy(claim.range) } catch {
            working.finish(claim, isCopied: false)
            throw error
        }
        working.finish(claim, isCopied: true)
        doneBytes.add(claim.range.lengthBytes)
    }

    private func copy(_ range: ByteRange) async throws(Failure) {
        let extents = try await reading { () async throws(BlockError) in
            try await volume.allExtents(in: range)
        }
        // A part of one of the target's units would need the rest from what is below it.
        let areWhole = extents.allSatisfy { isWhole($0.range) }
        for extent in areWhole ? extents : [Extent(range: range, isZero: false, isHole: false)] {
            if extent.isZero {
                try await zero(extent.range)
                continue
            }
            for offset in stride(
                from: extent.range.offset, to: extent.range.end, by: Int(pieceBytes))
            {
                let end = min(offset + pieceBytes, extent.range.end)
                try await copyData(ByteRange(offset: offset, end: end))
            }
        }
    }

    private func isWhole(_ range: ByteRange) -> Bool {
        let inner = range.alignedInward(to: target.unitBytes)
        return range.offset == inner.offset
            && (range.end == inner.end || range.end == volume.lengthBytes)
    }

    private var pieceBytes: UInt64 {
        max(
            min(options.bufferBytes, Self.pieceBytesMax).alignedDown(to: 4096), 4096,
            target.unitBytes)
    }

    private func copyData(_ range: ByteRange) async throws(Failure) {
        await MemoryBudget.shared.wait(for: range.lengthBytes, for: .jobs)
        defer { MemoryBudget.shared.give(range.lengthBytes, for: .jobs) }
        let content = BufferPool.shared.take(Int(range.lengthBytes))
            .prefix(Int(range.lengthBytes))
        try await reading { () async throws(BlockError) in
            try await volume.read(at: range.offset, into: content)
        }
        if content.readOnlyBytes.isAllZero { return try await zero(range) }
        try await writing { () async throws(BlockError) in try await write(range, content) }
    }

    /// Stores `content` in the target.
    func write(_ range: ByteRange, _ content: BufferSlice) async throws(BlockError) {
        written?.mark(range)
        try await target.device.write(at: range.offset, from: content)
        sentBytes.add(range.lengthBytes)
    }

    private func zero(_ range: ByteRange) async throws(Failure) {
        let isZero = try await writing { () async throws(BlockError) in
            try await isZeroInTarget(range)
        }
        if isZero { return }
        try await writing { () async throws(BlockError) in
            try await writeZeroes(range, mayUnmap: true)
        }
    }

    /// Stores zeroes in the target.
    func writeZeroes(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
        written?.mark(range)
        try await target.device.writeZeroes(
            wholeAtEnd(range), mayUnmap: mayUnmap && options.mayUnmap)
    }

    /// A target that counts in whole sectors may reach beyond the source, where it is zero.
    private func wholeAtEnd(_ range: ByteRange) -> ByteRange {
        guard range.end == volume.lengthBytes else { return range }
        let end = min(range.end.alignedUp(to: 512), target.device.lengthBytes)
        return ByteRange(offset: range.offset, end: end)
    }

    private func isZeroInTarget(_ range: ByteRange) async throws(BlockError) -> Bool {
        if let written {
            let (run, isWritten) = written.nextRun(in: range)
            return !isWritten && run.contains(range)
        }
        return try await target.device.allExtents(in: range).allSatisfy(\.isZero)
    }

    private func reading<T: Sendable>(
        _ body: () async throws(BlockError) -> T
    ) async throws(Failure) -> T {
        do throws(BlockError) { return try await body() } catch {
            throw Failure(error: error, isRead: true)
        }
    }

    private func writing<T: Sendable>(
        _ body: () async throws(BlockError) -> T
    ) async throws(Failure) -> T {
        do throws(BlockError) { return try await body() } catch {
            throw Failure(error: error, isRead: false)
        }
    }
}
