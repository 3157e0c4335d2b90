import BlockCore

/// What a point is to be, fixed at its freeze.
package struct PointPlan: Sendable {
    package var id: PointID
    package var volumeUUID: String
    package var volumeName: String
    /// The volume's exact length.
    package var lengthBytes: UInt64
    package var level: PointLevel
    package var reason: PointReason
    /// What led to the reason, for people.
    package var explanation: String?
    /// The point that an increment continues; nil for a full.
    package var parent: Manifest?
    /// The granularity of the bitmap, a power of two. Along a chain it may change only as far as
    /// the digest cells stay the same.
    package var granularityBytes: UInt64
    /// How clusters are compressed; nil if they are not.
    package var compression: PointCompression?
    package var group: String?
    package var freezeTime: UTCTime
    package var freezeMicroseconds: UInt64

    package init(
        id: PointID, volumeUUID: String, volumeName: String, lengthBytes: UInt64,
        level: PointLevel, reason: PointReason, explanation: String? = nil,
        parent: Manifest? = nil,
        granularityBytes: UInt64 = 64 << 10,
        compression: PointCompression? = nil, group: String? = nil, freezeTime: UTCTime = .now(),
        freezeMicroseconds: UInt64 = 0
    ) {
        self.id = id
        self.volumeUUID = volumeUUID
        self.volumeName = volumeName
        self.lengthBytes = lengthBytes
        self.level = level
        self.reason = reason
        self.explanation = explanation
        self.parent = parent
        self.granularityBytes = granularityBytes
        self.compression = compression
        self.group = group
        self.freezeTime = freezeTime
        self.freezeMicroseconds = freezeMicroseconds
    }
}

extension PointPlan {
    /// The digest cells of the point.
    var gridBytes: UInt64 { Grid.cellBytes(granularityBytes: granularityBytes) }

    /// The clusters of the point's image.
    var clusterBytes: UInt64 { Grid.clusterBytes(granularityBytes: granularityBytes) }

    /// What an increment must hold because the length changed.
    var rangeToHold: ByteRange {
        guard let parent else { return ByteRange(offset: 0, lengthBytes: 0) }
        return Grid.rangeToHold(
            parentBytes: parent.volume.lengthBytes, volumeBytes: lengthBytes,
            granularityBytes: granularityBytes)
    }

    /// Throws `invalid` if no point can be made by this plan in a repository that digests with
    /// `algorithm`.
    func check(algorithm: DigestAlgorithm) throws(BlockError) {
        func refuse(_ detail: String) -> BlockError {
            BlockError(.invalid, "begin the point", on: "\(volumeName) \(id)", detail: detail)
        }
        guard VolumeFolder.isUUID(volumeUUID) else {
            throw refuse("\"\(volumeUUID)\" is no uuid")
        }
        guard granularityBytes.isPowerOfTwo, granularityBytes >= 512 else {
            throw refuse("granularity \(granularityBytes); a power of two from 512 is needed")
        }
        guard lengthBytes <= Grid.volumeBytesMax else {
            throw refuse("\(lengthBytes) bytes are more than a manifest can describe")
        }
        guard (level == .full) == (parent == nil) else {
            throw refuse("an increment needs a parent, and a full has none")
        }
        guard level != .differential || parent?.level == .full else {
            throw refuse("a differential stands on a full")
        }
        guard let parent else { return }
        guard parent.volume.uuid == volumeUUID else {
            throw refuse("its parent is a point of another volume, \(parent.volume.uuid)")
        }
        guard parent.point < id else {
            throw refuse("its id is not above its parent's, \(parent.point)")
        }
        guard parent.digest.gridBytes == gridBytes else {
            throw refuse(
                "the chain has digest cells of \(parent.digest.gridBytes) bytes, granularity "
                    + "\(granularityBytes) makes \(gridBytes): take a full backup")
        }
        guard parent.digest.algorithm == algorithm else {
            throw refuse(
                "the chain is digested with \(parent.digest.algorithm.rawValue), the repository "
                    + "with \(algorithm.rawValue): take a full backup")
        }
    }
}
