package import BlockCore
package import Repository

/// What came of a job that succeeded.
package enum JobResult: Sendable {
    /// The points made, and the volumes of which none could be.
    case backup([BackupOutcome], failures: [JobFailure])
    case restore(RestoreOutcome)
    case stream(StreamOutcome)
    case commit(CommitOutcome)
    case mirror(MirrorOutcome)
    case copy(TargetBackupOutcome)
    case verify([VerifyOutcome])
}

/// A part of a job that did not work while others did.
package struct JobFailure: Sendable {
    /// The volume or point.
    package var subject: String
    package var error: BlockError
}

/// One restore point that a backup made.
package struct BackupOutcome: Sendable {
    package var pointID: String
    package var volume: String
    package var repository: String
    package var level: String
    /// Why that level.
    package var reason: String
    /// What the bitmap, or the volume, said must be read.
    package var dirtyBytes: UInt64
    /// What the repository stores for the point.
    package var storedBytes: UInt64
    package var duration: Duration
    /// For how long the guest's writes were held.
    package var freezeDuration: Duration
    /// The longest that one of them was held up besides.
    package var worstWriteDelay: Duration
}

/// What a restore wrote.
package struct RestoreOutcome: Sendable {
    package var pointID: String
    /// The file, or the volume, that now holds the point.
    package var target: String
    package var isVolume: Bool
    package var lengthBytes: UInt64
    package var writtenBytes: UInt64
    /// What an interrupted run of the same restore had written, and still was as it should be.
    package var keptBytes: UInt64
    /// What could not be restored for certain; empty unless it was asked to salvage.
    package var lost: [LostRange]
    package var duration: Duration
}

/// What a stream made of a volume that depended on other images.
package struct StreamOutcome: Sendable {
    /// The point on which it depended, if it was one.
    package var pointID: String?
    package var volume: String
    /// What was copied; the rest had been written by guests, or read as zeroes.
    package var copiedBytes: UInt64
    package var duration: Duration
}

/// What a commit of images below the top did.
package struct CommitOutcome: Sendable {
    package var volume: String
    /// The image that has the content now.
    package var base: String
    package var copiedBytes: UInt64
    package var duration: Duration
}

/// What a backup to a target wrote.
package struct TargetBackupOutcome: Sendable {
    package var volume: String
    package var target: String
    /// As data.
    package var writtenBytes: UInt64
    package var duration: Duration
}

/// What the verification of one point found.
package struct VerifyOutcome: Sendable {
    package var pointID: String
    package var checkedBytes: UInt64
    /// Ranges whose content is not what was backed up.
    package var badRanges: [ByteRange]
    /// What else is wrong, one sentence each.
    package var problems: [String]
    package var isGood: Bool { badRanges.isEmpty && problems.isEmpty }
}
