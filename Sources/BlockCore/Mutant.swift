#if DEBUG
    import Glibc
    import Synchronization
#endif

// How the tests show that they would notice.
//
// Each case disables one rule of the write path, of a bitmap's life or of its volume's. A suite that
// claims to guard the rule is run with the case active, and has to fail. Nothing of it is in a
// release build: there `isActive` is the constant false, and the compiler removes what asks.

/// A rule that a debug build can be told to break.
package enum Mutant: Int, CaseIterable, Sendable {
    // The write path, in its order.

    /// A write does not tell the catalog of its region.
    case writeWithoutAnnouncement = 1
    /// A region counts as announced before the commit that holds it.
    case trustAnnouncementBeforeCommit
    /// Requests of one length take no notice of each other's ranges.
    case ignoreOverlap
    /// A write does not keep what a running backup still needs.
    case writeWithoutKeeping
    /// A write keeps what a backup needs, but only after it has overwritten it.
    case keepAfterWrite
    /// A granule counts as kept before its content is in the fleece.
    case settleBeforeKeeping
    /// The bits are set before the write only.
    case markBeforeWriteOnly
    /// A write that failed sets no bits.
    case forgetFailedWrite
    /// The bits are set some time after the reply.
    case markAfterReply
    /// A discard sets no bits.
    case discardWithoutMarking
    /// A flush does not reach the images.
    case flushNothing
    /// Writes go on to a server after one of unknown outcome, which may yet come after them.
    case writeAfterUnknownOutcome

    // The activity log.

    /// A region leaves the log without having been closed to new writes.
    case retireWithoutClosing
    /// A region leaves the log while writes into it are in flight.
    case retireWithoutDrain
    /// A region leaves the log in a commit that does not hold its chunks.
    case retireWithoutChunks
    /// After a crash the announced regions are not marked.
    case forgetLogAfterCrash
    /// After a crash the log is emptied before the bits that stand for it are durable.
    case emptyLogAtOpen

    // Bitmaps.

    /// A freeze does not wait for the writes in flight.
    case freezeWithoutDrain
    /// The volumes of a group are frozen one after the other.
    case freezeOneByOne
    /// A freeze waits for the writes in flight however long they take.
    case freezeWithoutDeadline
    /// A freeze empties the log without committing the chunks.
    case freezeWithoutChunks
    /// The start of a backup gives up what its bitmap had, as if the point were sure to come.
    case clearAtFreeze
    /// A bitmap is disabled without committing its chunks.
    case disableWithoutChunks
    /// A merge commits nothing of what it added.
    case mergeWithoutChunks
    /// After a failed backup the bitmap does not take its successor's bits in.
    case dropSuccessorOnFailure
    /// After a failed backup the bitmap has its successor's bits only.
    case dropFrozenOnFailure
    /// A point is published without flushing its source.
    case promoteWithoutSourceFlush
    /// The source is flushed before the freeze has drained its writes, and not again.
    case flushBeforeFreeze
    /// A repository that does not answer counts as one without the point.
    case settleWithoutAnswer

    // Content.

    /// The copy of a backup takes what it read though a write has kept the old content since.
    case copyWithoutClaim
    /// A backup leaves zeroes out.
    case dropZeroes
    /// A stream stores what it read though a guest has written there since.
    case streamOverNewer
    /// What a volume gained by growing is not marked.
    case growWithoutMarking
    /// A volume that grows shows what its image still holds of what was cut off.
    case growOverRemnant

    // Trust.

    /// Images are opened without a lock.
    case openWithoutLock
    /// Images that something else has written are believed.
    case trustChangedImage
    /// After a crash an image is believed that was written when the agent was no more.
    case trustLateImage
    /// After a power loss the bitmaps of a volume of durability "process" are believed.
    case trustProcessAfterPowerLoss
}

#if DEBUG
    extension Mutant {
        /// 0 for none. At the start the one that `TIDEMARK_MUTANT` names, for agents as processes.
        private static let activeRawValue = Atomic(named(getenv("TIDEMARK_MUTANT"))?.rawValue ?? 0)

        /// Whether the rule is to be broken. Always false in a release build.
        package var isActive: Bool { Self.activeRawValue.load(ordering: .relaxed) == rawValue }

        /// The one rule of this process that is broken at the moment; nil for none.
        package static var active: Mutant? {
            get { Mutant(rawValue: activeRawValue.load(ordering: .relaxed)) }
            set { activeRawValue.store(newValue?.rawValue ?? 0, ordering: .relaxed) }
        }

        private static func named(_ name: UnsafeMutablePointer<CChar>?) -> Mutant? {
            guard let name else { return nil }
            let text = String(cString: name)
            guard let mutant = allCases.first(where: { "\($0)" == text }) else {
                fatalError("TIDEMARK_MUTANT names no rule: \(text)")
            }
            return mutant
        }
    }
#else
    extension Mutant {
        @inlinable
        package var isActive: Bool { false }
    }
#endif
