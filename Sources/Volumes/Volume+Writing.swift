import Bitmaps
package import BlockCore

// The order of a write, and of everything else that changes content (zeroes, discards):
//
//   1  announce   a region that is not in the activity log is committed to the catalog first
//   2  hold       the range is locked: from here on a quiet instant waits for this write
//   3  keep       what a running backup still needs goes to its fleece
//   4  write      into the top node
//   5  mark       the bits of every recording bitmap, whether the write succeeded or failed
//   6  copy       to the target of a mirror in write-blocking mode
//   7  release    the range, then the reply
//
// Marking comes *after* the write: a job that cleared the bit and read in between would have
// copied the old data, and nobody would mark the new. Marking also after a failure: a failed
// write may have changed some of its bytes.
//
// A region may leave the log between 1 and 2, so the log is asked only while the range is held, and
// what it lacks is announced with the range given back. While a range is held its regions stay.
//
// The attempt that never waits does the same steps, and refuses at the first that would wait. What it
// has kept by then stays kept.

extension Volume {
    package func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool {
        let range = ByteRange(offset: offset, lengthBytes: UInt64(source.count))
        try checkWritable(range, "write")
        guard let hold = locks.tryAcquire(range) else { return false }
        defer { locks.release(hold) }
        guard mayWriteNow(range) else { return false }
        if Mutant.markBeforeWriteOnly.isActive { setBits(range) }
        let isDone: Bool
        do throws(BlockError) {
            isDone = try top.tryWrite(at: offset, from: source)
        } catch {
            if !Mutant.forgetFailedWrite.isActive { mark(range) }
            throw error
        }
        if isDone { mark(range) }
        return isDone
    }

    package func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        let range = ByteRange(offset: offset, lengthBytes: UInt64(source.count))
        try checkWritable(range, "write")
        try await change(range, .written(source)) { (top) throws(BlockError) in
            try await top.write(at: offset, from: source)
        }
    }

    package func writeZeroes(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
        try checkWritable(range, "write zeroes")
        try await change(range, .zeroed(mayUnmap: mayUnmap)) { (top) throws(BlockError) in
            try await top.writeZeroes(range, mayUnmap: mayUnmap)
        }
    }

    package func discard(_ range: ByteRange) async throws(BlockError) {
        try checkWritable(range, "discard")
        try await change(range, .unknown, marks: !Mutant.discardWithoutMarking.isActive) {
            (top) throws(BlockError) in
            try await top.discard(range)
        }
    }

    /// Keeping the past would take longer than the zeroes.
    package func canZeroFast(_ range: ByteRange, mayUnmap: Bool) -> Bool {
        guard !range.isEmpty, let hold = locks.tryAcquire(range) else { return false }
        defer { locks.release(hold) }
        return duties.points.isEmpty && duties.followers.isEmpty
            && top.canZeroFast(range, mayUnmap: mayUnmap)
    }

    /// Runs one change of content through all steps.
    private func change(
        _ range: ByteRange, _ change: WriteChange, marks: Bool = true,
        _ body: (any BlockDevice) async throws(BlockError) -> Void
    ) async throws(BlockError) {
        guard !range.isEmpty else { return }
        // Before the range is held, as one would do who marks early: what takes the bits holds all.
        if Mutant.markBeforeWriteOnly.isActive { setBits(range) }
        let hold = try await holdAnnounced(range)
        defer { locks.release(hold) }
        if !Mutant.keepAfterWrite.isActive { await keep(range) }
        do throws(BlockError) {
            try await body(top)
        } catch {
            if !Mutant.forgetFailedWrite.isActive { mark(range) }
            await follow(range, .unknown)
            throw error
        }
        if Mutant.keepAfterWrite.isActive { await keep(range) }
        if marks { mark(range) }
        await follow(range, change)
    }

    /// Whether what comes before the write of `range`, which is held, has been done or needed no
    /// waiting.
    func mayWriteNow(_ range: ByteRange) -> Bool {
        log.isAnnounced(range) && duties.followers.isEmpty && tryKeep(range)
    }

    /// Step 3, if it needs no waiting.
    private func tryKeep(_ range: ByteRange) -> Bool {
        if Mutant.writeWithoutKeeping.isActive || Mutant.keepAfterWrite.isActive {
            return duties.points.allSatisfy { $0.allowsWrite(range) }
        }
        return duties.points.allSatisfy { $0.tryKeep(range) }
    }

    /// Step 6.
    private func follow(_ range: ByteRange, _ change: WriteChange) async {
        for follower in duties.followers { await follower.follow(range, change) }
    }

    /// Step 3.
    private func keep(_ range: ByteRange) async {
        if Mutant.writeWithoutKeeping.isActive { return }
        for point in duties.points { await point.keep(range) }
    }

    /// Steps 1 and 2: returns with the range held and in the log.
    private func holdAnnounced(_ range: ByteRange) async throws(BlockError) -> RangeLock.Hold {
        while true {
            let hold = await locks.acquire(range)
            let log = log
            if log.isAnnounced(range) { return hold }
            locks.release(hold)
            try await log.announce(range)
            Retirement.retireExcess(of: self, log)
        }
    }

    func mark(_ range: ByteRange) {
        if Mutant.markBeforeWriteOnly.isActive { return }
        guard Mutant.markAfterReply.isActive else { return setBits(range) }
        Task {
            try? await Task.sleep(for: .milliseconds(30))
            let hold = await locks.acquire(range)
            setBits(range)
            locks.release(hold)
        }
    }

    private func setBits(_ range: ByteRange) {
        for bitmap in duties.recording { bitmap.mark(range) }
    }

    func checkWritable(_ range: ByteRange, _ operation: String) throws(BlockError) {
        guard !isReadOnly else { throw BlockError(.readOnly, operation, on: name, range: range) }
        try checkInside(range, operation)
    }
}
