import BlockCore
import Repository
import Volumes

/// The level that a user asks for.
package enum BackupLevel: String, Sendable, CaseIterable {
    /// Incremental where that is possible, else full.
    case auto
    case full
    /// Incremental by a bitmap, or nothing.
    case incremental
    /// On top of the last full, or a full if there is none.
    case differential
}

/// What tells what a point must hold.
enum BackupBasis: Sendable {
    /// It holds the whole volume.
    case everything
    /// A bitmap says what changed since the parent.
    case bitmap
    /// The volume is read, and what differs from the parent's digests is held.
    case comparison
}

/// What becomes of the bitmap once its point is there.
enum BitmapEnding: Sendable {
    /// Its successor takes its place and continues the new point.
    case promote
    /// It takes its successor in, and continues what it continued before.
    case keep
    /// Its successor takes its place and continues the point's parent: what was found to differ
    /// from that is marked in it.
    case restart
}

/// What a backup of one volume shall be, decided before anything is touched.
struct BackupPlan: Sendable {
    let volume: Volume
    let bitmapName: String
    let granularityBytes: UInt64
    let pointID: PointID
    var level = PointLevel.full
    var basis = BackupBasis.everything
    /// The point that this one depends on; nil for a full.
    var parent: Manifest?
    var reason = PointReason.requested
    /// What led to the reason, for people.
    var explanation: String?
    var ending = BitmapEnding.promote
}
