package import BlockCore

// What a write does for a point before it may begin. The thread of a guest's connection does it at
// once where the old content is in the page cache and nobody else is at the same block; that costs
// less than handing the write over, and in the first seconds of a backup every write has to.

extension PointInTime {
    /// Whether a write into `range` has nothing to keep. Never waits.
    func allowsWrite(_ range: ByteRange) -> Bool {
        state.withLock { state in state.failure != nil || !state.granules.owes(range) }
    }

    /// Keeps what `range` still owes, if that needs no waiting but for the page cache; false if it
    /// does, and then the write may not begin. Never fails for the caller, as `keep`.
    package func tryKeep(_ range: ByteRange) -> Bool {
        guard !allowsWrite(range) else { return true }
        let started = ContinuousClock.now
        guard range.lengthBytes <= Self.keptNowBytesMax,
            let hold = keeping.tryAcquire(range.alignedOutward(to: blockBytes))
        else { return false }
        defer { keeping.release(hold) }
        do throws(BlockError) {
            var blocks = blocks(of: range)
            while let run = nextRun(of: blocks) {
                let (part, content) = room(for: run)
                guard try source.tryRead(at: part.offset, into: content.bytes) == .done else {
                    return false
                }
                try store(content, run)
                blocks = run.upperBound..<blocks.upperBound
            }
        } catch {
            giveUp(error)
        }
        note(since: started)
        return true
    }

    /// Keeps what `range` still owes, so that a write into it may begin. Never fails for the
    /// caller: what cannot be kept gives the point up.
    package func keep(_ range: ByteRange) async {
        guard !allowsWrite(range) else { return }
        let started = ContinuousClock.now
        defer { note(since: started) }
        let hold = await keeping.acquire(range.alignedOutward(to: blockBytes))
        defer { keeping.release(hold) }
        do throws(BlockError) {
            try await keepZeroes(in: range)
            var blocks = blocks(of: range)
            while let run = nextRun(of: blocks) {
                let (part, content) = room(for: run)
                try await source.read(at: part.offset, into: content)
                try store(content, run)
                blocks = run.upperBound..<blocks.upperBound
            }
        } catch {
            giveUp(error)
        }
    }

    /// What is read at once; more is worth a change of thread.
    private static let keptNowBytesMax: UInt64 = 64 << 10

    private func blocks(of range: ByteRange) -> Range<UInt64> {
        state.withLock { $0.granules.blocks(of: range) }
    }

    private func nextRun(of blocks: Range<UInt64>) -> Range<UInt64>? {
        state.withLock { state in
            let run = state.firstOwed(of: blocks)
            if Mutant.settleBeforeKeeping.isActive, let run {
                state.granules.keepZeroes(run.lowerBound * blockBytes / granuleBytes)
            }
            return run
        }
    }

    private func room(for run: Range<UInt64>) -> (part: ByteRange, content: BufferSlice) {
        let part = state.withLock { $0.granules.range(ofBlocks: run) }
        let content = BufferPool.shared.take(run.count * Int(blockBytes))
        return (part, content.prefix(Int(part.lengthBytes)))
    }

    private func store(_ content: BufferSlice, _ run: Range<UInt64>) throws(BlockError) {
        try fleece.store(content, blocks: run)
        let isInTime = state.withLock { state in
            state.keptBytes += UInt64(content.count)
            state.arrivals?.append(run.lowerBound * blockBytes / granuleBytes)
            return state.granules.keep(run)
        }
        if !isInTime { fleece.drop(run.lowerBound) }
    }

    /// A wide request (a discard, mostly) asks the map first: what it says is zero needs no copy.
    private func keepZeroes(in range: ByteRange) async throws(BlockError) {
        guard range.lengthBytes >= 16 * granuleBytes else { return }
        for extent in try await source.allExtents(in: range) where extent.isZero {
            let whole = extent.range.alignedInward(to: granuleBytes)
            state.withLock { state in
                for granule in state.granules.granules(of: whole) {
                    state.granules.keepZeroes(granule)
                    state.arrivals?.append(granule)
                }
            }
        }
    }

    private func note(since started: ContinuousClock.Instant) {
        let delay = ContinuousClock.now - started
        state.withLock { $0.worstWriteDelay = max($0.worstWriteDelay, delay) }
    }
}
