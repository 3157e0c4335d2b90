/// Lists restore points, oldest first.
package enum QueryPoints: ControlCommand {
    package typealias Result = [PointInfo]

    package static let name = "query-points"
    package static let summary = "restore points, newest last"

    package struct Arguments: Codable, Sendable {
        package var volume: String?
        package var repository: String?

        package init(volume: String? = nil, repository: String? = nil) {
            self.volume = volume
            self.repository = repository
        }
    }
}

/// Finds the one point that a text means.
package enum PointResolve: ControlCommand {
    package typealias Result = PointInfo

    package static let name = "point-resolve"
    package static let summary = "the restore point that an id, prefix or VOL@WHEN means"

    package struct Arguments: Codable, Sendable {
        /// An id, a unique prefix of one, `VOL@latest`, `VOL@-1` or `VOL@TIMESTAMP`.
        package var point: String

        package init(point: String) { self.point = point }
    }
}

/// One restore point.
package struct PointInfo: Codable, Sendable, Equatable {
    package var id: String
    package var volume: String
    package var volumeUUID: String
    package var repository: String
    /// "full", "incremental" or "differential".
    package var level: String
    /// Why it has that level.
    package var reason: String
    /// What led to the reason.
    package var explanation: String?
    package var parent: String?
    /// The instant it shows, ISO 8601 in UTC.
    package var created: String
    /// Of the volume, in bytes.
    package var size: UInt64
    /// What it occupies, in bytes.
    package var storedBytes: UInt64
    /// Shared by points of one instant.
    package var group: String?
    /// The points of the group; absent as long as it is not complete.
    package var groupMembers: [String]?
    package var freezeDurationSeconds: Double?
    /// The longest that a write of the guest was held up besides the freeze.
    package var worstWriteDelaySeconds: Double?
    /// "whole", or what is wrong with it.
    package var state: String

    package init(
        id: String, volume: String, volumeUUID: String, repository: String, level: String,
        reason: String, explanation: String? = nil, parent: String? = nil, created: String,
        size: UInt64,
        storedBytes: UInt64, group: String? = nil, groupMembers: [String]? = nil,
        freezeDurationSeconds: Double? = nil, worstWriteDelaySeconds: Double? = nil,
        state: String
    ) {
        self.id = id
        self.volume = volume
        self.volumeUUID = volumeUUID
        self.repository = repository
        self.level = level
        self.reason = reason
        self.explanation = explanation
        self.parent = parent
        self.created = created
        self.size = size
        self.storedBytes = storedBytes
        self.group = group
        self.groupMembers = groupMembers
        self.freezeDurationSeconds = freezeDurationSeconds
        self.worstWriteDelaySeconds = worstWriteDelaySeconds
        self.state = state
    }

    private enum CodingKeys: String, CodingKey {
        case id, volume, repository, level, reason, explanation, parent, created, size, group, state
        case volumeUUID = "volume-uuid"
        case storedBytes = "stored-bytes"
        case groupMembers = "group-members"
        case freezeDurationSeconds = "freeze-duration-seconds"
        case worstWriteDelaySeconds = "worst-write-delay-seconds"
    }
}
