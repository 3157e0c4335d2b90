import Bitmaps
package import BlockCore
package import Catalog
import Synchronization

// What a job that keeps a target in step with a volume knows of each granule:
//
//   due         not copied since its last write: somebody has to
//   in flight   being copied; a lock on the range, so that no two copies of it are under way
//   copied      the target has it, though a power loss may yet take it back
//   unsettled   all of these: what the catalog says. It ends with a flush of source and target
//
// A write marks `due` and then `unsettled`, after it has changed the volume. A copy takes the
// range's lock, clears `due`, reads, writes, marks `copied`, gives the lock back. So a write that a
// copy may have missed leaves `due` behind, and there is no moment at which a granule is in none of
// the first three though the target may lack something of it.
//
// `settle` takes the copied ones, flushes, and clears each in `unsettled`; then it looks whether the
// granule is due, in flight or copied again, in the order in which it would move on, and marks
// it again if so. Whoever writes after that look marks `unsettled` after the clear.
//
// A follower (a mirror in write-blocking mode) copies a write before it is acknowledged. Then writes
// do not mark `due`, and the follower marks `unsettled` once more with the range's lock held, for
// the same reason. One whose copy takes too long is not waited for: the granule is due again, and
// the copy keeps the range's lock until it has ended, so nothing older lands on anything newer.

/// The bitmap by which a job copies a volume that is being written.
package final class WorkingBitmap: Sendable {
    package let jobID: String
    /// The point since which the bitmap that it was seeded from told what changed, if it did.
    package let continues: PointReference?
    let record: WorkingBitmapRecord
    let due: DirtyBitmap
    let unsettled: DirtyBitmap
    /// Who is told of writes instead of `due`; changes with the whole volume held.
    private let follows = Mutex<(any WriteFollower)?>(nil)
    private let copying = RangeLock()
    private let following = AwaitedCopies(patience: patience)
    private let copied: HostMutex<DirtyBitmap>

    /// How long a guest waits for a copy of its write.
    static let patience = Duration.seconds(2)

    /// A range that one copier has for himself.
    package struct Claim: Sendable {
        package let range: ByteRange
        fileprivate let hold: RangeLock.Hold
    }

    /// All that is in `unsettled` is due.
    init(_ record: WorkingBitmapRecord, _ unsettled: DirtyBitmap, continues: PointReference?) {
        self.record = record
        self.unsettled = unsettled
        self.continues = continues
        jobID = record.jobID
        due = unsettled.copy()
        copied = HostMutex(Self.clean(like: unsettled))
    }

    /// Its number in the catalog.
    package var id: Int64 { record.bitmap.id }

    /// Whether its bits tell all that the target may lack, also after a stop of the agent.
    package var isTrusted: Bool { !record.bitmap.isInconsistent }

    package var granularityBytes: UInt64 { due.granularityBytes }

    /// What has to be copied, in whole granules; what is in flight does not count.
    package var dueBytes: UInt64 { due.dirtyBytes }

    /// Whether there is nothing to copy and nothing in flight.
    package var isInStep: Bool {
        due.dirtyGranuleCount == 0 && !copying.isHeld(Volume.allBytes)
            && due.dirtyGranuleCount == 0
    }

    /// The bits that a write sets, in this order.
    var recordingBits: [DirtyBitmap] { follower == nil ? [due, unsettled] : [unsettled] }

    /// Who is told of every write, if somebody is.
    package var follower: (any WriteFollower)? { follows.withLock { $0 } }

    func setFollower(_ follower: (any WriteFollower)?) { follows.withLock { $0 = follower } }

    /// Says that `range` has to be copied.
    package func mark(_ range: ByteRange) {
        due.mark(range)
        unsettled.mark(range)
    }

    /// Takes the first due bytes at or after `offset` that nobody is copying: at most `lengthMax`,
    /// widened to whole granules and to multiples of `unitBytes`. Nil if there are none.
    package func claim(
        from offset: UInt64, lengthMax: UInt64, unitBytes: UInt64
    ) -> Claim? {
        let unit = max(granularityBytes, unitBytes)
        var position = offset
        while let found = due.nextDirtyRange(from: position, lengthMax: lengthMax) {
            let whole = found.alignedOutward(to: unit)
            let range = ByteRange(offset: whole.offset, end: min(whole.end, due.lengthBytes))
            position = whole.end
            guard let hold = copying.tryAcquire(range) else { continue }
            due.clear(range)
            return Claim(range: range, hold: hold)
        }
        return nil
    }

    /// Ends a copy; one that failed is due again.
    package func finish(_ claim: Claim, isCopied: Bool) {
        if isCopied {
            copied.withLock { $0.mark(claim.range) }
        } else {
            due.mark(claim.range)
        }
        copying.release(claim.hold)
    }

    /// Has `copy` store what was just written at `range`, which is held in the volume, in the
    /// target, after whatever copy of it is under way. False from it has it copied later. Returns
    /// false if that takes too long: then it is copied later too, once `copy` has ended.
    package func follow(
        _ range: ByteRange, _ copy: @escaping @Sendable () async -> Bool
    ) async -> Bool {
        let whole = range.alignedOutward(to: granularityBytes)
        guard let hold = await copying.acquire(whole, within: Self.patience) else {
            mark(range)
            return false
        }
        unsettled.mark(range)
        return await following.run(
            copy,
            ended: { [self] isCopied in
                guard isCopied else { return due.mark(range) }
                copied.withLock { $0.mark(range) }
                // What it covers in part may lack the rest.
                due.clear(range)
            },
            abandon: { [self] in due.mark(range) },
            released: { [self] in copying.release(hold) })
    }

    /// Waits until no copy of a write is under way that nobody waits for.
    package func drainFollowers() async { await following.drain() }

    /// Has `flush` make source and target durable, and takes what had been copied before as settled.
    package func settle(
        _ flush: () async throws(BlockError) -> Void
    ) async throws(BlockError) {
        let taken = copied.withLock { copied in
            let taken = copied
            copied = Self.clean(like: taken)
            return taken
        }
        do throws(BlockError) { try await flush() } catch {
            copied.withLock { $0.mergeOfSameVolume(taken) }
            throw error
        }
        for run in taken.dirtyRanges() {
            unsettled.clear(run)
            for offset in stride(from: run.offset, to: run.end, by: Int(granularityBytes))
            where isMoving(at: offset) {
                unsettled.mark(ByteRange(offset: offset, lengthBytes: 1))
            }
        }
    }

    private func isMoving(at offset: UInt64) -> Bool {
        due.isDirty(at: offset) || copying.isHeld(ByteRange(offset: offset, lengthBytes: 1))
            || copied.withLock { $0.isDirty(at: offset) }
    }

    private static func clean(like bits: DirtyBitmap) -> DirtyBitmap {
        do throws(BlockError) {
            return try DirtyBitmap(
                lengthBytes: bits.lengthBytes, granularityBytes: bits.granularityBytes)
        } catch {
            preconditionFailure("there is a bitmap of that kind: \(error)")
        }
    }
}
