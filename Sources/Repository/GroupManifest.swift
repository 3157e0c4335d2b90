/// What a group of points is: the points of several volumes that show one instant.
///
/// Written after all its members, so that whoever finds it knows that they are complete.
package struct GroupManifest: Codable, Hashable, Sendable {
    /// The version of the format that this code writes, and the newest that it reads.
    package static let formatVersion = 1

    /// One of the points.
    package struct Member: Codable, Hashable, Sendable {
        package var volumeUUID: String
        package var volumeName: String
        package var point: PointID
        package var contentDigest: String
    }

    package var formatVersion = GroupManifest.formatVersion
    /// The group's id, of the form of a point's.
    package var group: PointID
    /// The instant that all members show.
    package var freeze: Manifest.Freeze
    package var members: [Member]
    /// The program that wrote the manifest.
    package var tool = Manifest.tool
    /// The SHA-256 of the manifest's own text; see `ManifestSeal`.
    package var manifestSHA256 = ManifestSeal.placeholder

    /// The manifest of the group of `members`.
    package init(
        group: PointID, time: UTCTime, durationMicroseconds: UInt64, members: [Manifest]
    ) {
        self.group = group
        freeze = Manifest.Freeze(time: time, durationMicroseconds: durationMicroseconds)
        self.members = members.map {
            Member(
                volumeUUID: $0.volume.uuid, volumeName: $0.volume.name, point: $0.point,
                contentDigest: $0.contentDigest)
        }
    }
}
