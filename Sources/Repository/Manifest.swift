import DriverQcow2

/// What a restore point is: everything that a host which has nothing but the repository needs to
/// list, verify, restore and continue it. The README documents each field.
package struct Manifest: Codable, Hashable, Sendable {
    /// The version of the format that this code writes, and the newest that it reads.
    package static let formatVersion = 1

    /// What this code calls itself in the manifests that it writes.
    package static let tool = "tidemark 0.1.0"

    /// The volume that was backed up, as it was at the freeze.
    package struct Volume: Codable, Hashable, Sendable {
        package var uuid: String
        package var name: String
        /// The exact length, of no particular alignment.
        package var lengthBytes: UInt64
    }

    /// What an increment depends on.
    package struct Parent: Codable, Hashable, Sendable {
        package var point: PointID
        /// The parent's content digest: an increment is bound to that content, not to a file.
        package var contentDigest: String
    }

    /// How the content is digested.
    package struct Digest: Codable, Hashable, Sendable {
        package var algorithm: DigestAlgorithm
        package var gridBytes: UInt64
    }

    /// The instant that the point shows.
    package struct Freeze: Codable, Hashable, Sendable {
        package var time: UTCTime
        package var durationMicroseconds: UInt64
    }

    /// The file or image that holds the data.
    package struct Image: Codable, Hashable, Sendable {
        package var file: String
        package var lengthBytes: UInt64
        package var clusterBytes: UInt64
        /// The data that this point alone takes.
        package var storedBytes: UInt64
        /// How clusters are compressed; nil if they are not.
        package var compression: PointCompression?
    }

    /// The digest table, and what it comes to.
    package struct Extents: Codable, Hashable, Sendable {
        package var file: String
        package var lengthBytes: UInt64
        package var sha256: String
        package var recordCount: UInt64
        package var dataBytes: UInt64
        package var zeroBytes: UInt64
    }

    package var formatVersion = Manifest.formatVersion
    package var point: PointID
    package var volume: Volume
    package var level: PointLevel
    package var reason: PointReason
    /// What led to the reason, for people.
    package var explanation: String?
    package var parent: Parent?
    /// What the points of one instant across several volumes have in common.
    package var group: String?
    package var granularityBytes: UInt64
    package var digest: Digest
    package var freeze: Freeze
    package var guest: PointInterference?
    package var image: Image
    package var extents: Extents
    package var contentDigest: String
    /// The program that wrote the point.
    package var tool: String
    /// The SHA-256 of the manifest's own text and of the table; see `ManifestSeal`.
    package var manifestSHA256 = ManifestSeal.placeholder
}

/// What a backup meant to the guest whose disk it read.
package struct PointInterference: Codable, Hashable, Sendable {
    /// The longest that a write was held up, besides the freeze, to keep what it overwrote.
    package var worstWriteDelayMicroseconds: UInt64
    /// How much old content writes had to keep, zeroes not counted.
    package var keptBytes: UInt64

    package init(worstWriteDelayMicroseconds: UInt64, keptBytes: UInt64) {
        self.worstWriteDelayMicroseconds = worstWriteDelayMicroseconds
        self.keptBytes = keptBytes
    }
}

/// How the clusters of a point's image are compressed.
package enum PointCompression: String, Codable, Sendable, CaseIterable {
    case zstd

    var ofImage: Qcow2Header.Compression {
        switch self {
        case .zstd: .zstd
        }
    }
}

/// What a point stands on.
package enum PointLevel: String, Codable, Sendable {
    /// Nothing.
    case full
    /// Any other point.
    case incremental
    /// A full.
    case differential
}

/// Why a point has its level. Open: a reader keeps the words that it does not know.
package struct PointReason: RawRepresentable, Codable, Hashable, Sendable {
    package let rawValue: String

    package init(rawValue: String) {
        self.rawValue = rawValue
    }

    package init(from decoder: any Decoder) throws {
        rawValue = try decoder.singleValueContainer().decode(String.self)
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(rawValue)
    }

    /// The volume had no point here.
    package static let first = PointReason(rawValue: "first")
    /// Somebody asked for this level.
    package static let requested = PointReason(rawValue: "requested")
    /// A valid bitmap continued the parent.
    package static let bitmap = PointReason(rawValue: "bitmap")
    /// The bitmap could not be trusted.
    package static let bitmapInconsistent = PointReason(rawValue: "bitmap-inconsistent")
    /// No bitmap continued any point.
    package static let bitmapMissing = PointReason(rawValue: "bitmap-missing")
    /// The point that the bitmap continues is not in the repository, or its chain is damaged.
    package static let parentMissing = PointReason(rawValue: "parent-missing")
    /// The volume's length changed.
    package static let resized = PointReason(rawValue: "resized")
    /// The bitmap's granularity does not fit the digest cells of the points that there are.
    package static let granularityChanged = PointReason(rawValue: "granularity-changed")
}
