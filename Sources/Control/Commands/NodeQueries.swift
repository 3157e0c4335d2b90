/// Describes the nodes of the block graph: the volumes, and what was opened with `blockdev-add`.
package enum QueryNamedBlockNodes: ControlCommand {
    package typealias Result = [BlockNodeInfo]

    package static let name = "query-named-block-nodes"
    package static let summary = "all nodes of the block graph that have a name"

    package struct Arguments: Codable, Sendable {
        /// Whether images are described without those behind them. Absent: false.
        package var flat: Bool?

        package init(flat: Bool? = nil) { self.flat = flat }
    }
}

/// Describes the disks that guests can have: the volumes.
package enum QueryBlock: ControlCommand {
    package typealias Arguments = Nothing
    package typealias Result = [BlockInfo]

    package static let name = "query-block"
    package static let summary = "the volumes, as QEMU describes its disks"
}

/// A disk, in QEMU's terms.
package struct BlockInfo: Codable, Sendable {
    /// The volume.
    package var device: String
    /// Always "unknown", as QEMU says of a disk.
    package var type: String
    package var removable: Bool
    package var locked: Bool
    /// Absent: the volume could not be opened.
    package var inserted: BlockNodeInfo?

    package init(device: String, inserted: BlockNodeInfo?) {
        self.device = device
        type = "unknown"
        removable = false
        locked = false
        self.inserted = inserted
    }
}

/// A node, in QEMU's terms: its `BlockDeviceInfo`.
package struct BlockNodeInfo: Codable, Sendable {
    /// The file or export; of a filter, the node that it stands on.
    package var file: String
    package var nodeName: String
    /// Whether it is read-only.
    package var ro: Bool
    /// The driver.
    package var drv: String
    package var backingFile: String?
    /// How many images are behind it.
    package var backingFileDepth: Int
    package var encrypted: Bool
    package var detectZeroes: BlockdevDetectZeroes
    // Limits are those of throttle nodes, and never a node's own.
    package var bps: Int
    package var bpsRead: Int
    package var bpsWrite: Int
    package var iops: Int
    package var iopsRead: Int
    package var iopsWrite: Int
    package var image: BlockImageInfo
    package var cache: BlockCacheInfo
    package var writeThreshold: Int
    /// Of a volume that has any.
    package var dirtyBitmaps: [BitmapInfo]?

    package init(
        file: String, nodeName: String, isReadOnly: Bool, driver: String,
        detectZeroes: BlockdevDetectZeroes = .off, image: BlockImageInfo, isDirect: Bool = false,
        bitmaps: [BitmapInfo] = []
    ) {
        self.file = file
        self.nodeName = nodeName
        ro = isReadOnly
        drv = driver
        backingFile = image.backingFilename
        backingFileDepth = image.depth
        encrypted = false
        self.detectZeroes = detectZeroes
        (bps, bpsRead, bpsWrite, iops, iopsRead, iopsWrite) = (0, 0, 0, 0, 0, 0)
        self.image = image
        cache = BlockCacheInfo(writeback: true, direct: isDirect, noFlush: false)
        writeThreshold = 0
        dirtyBitmaps = bitmaps.isEmpty ? nil : bitmaps
    }

    private enum CodingKeys: String, CodingKey {
        case file, ro, drv, encrypted, bps, iops, image, cache
        case nodeName = "node-name"
        case backingFile = "backing_file"
        case backingFileDepth = "backing_file_depth"
        case detectZeroes = "detect_zeroes"
        case bpsRead = "bps_rd"
        case bpsWrite = "bps_wr"
        case iopsRead = "iops_rd"
        case iopsWrite = "iops_wr"
        case writeThreshold = "write_threshold"
        case dirtyBitmaps = "dirty-bitmaps"
    }
}

/// How a node's writes are cached.
package struct BlockCacheInfo: Codable, Sendable {
    package var writeback: Bool
    package var direct: Bool
    package var noFlush: Bool

    private enum CodingKeys: String, CodingKey {
        case writeback, direct
        case noFlush = "no-flush"
    }
}

/// An image, in QEMU's terms.
package struct BlockImageInfo: Codable, Sendable, ReflectedSample {
    package var filename: String
    package var format: String
    /// Bytes.
    package var virtualSize: UInt64
    /// What it takes of the host's storage; absent where there is no file.
    package var actualSize: UInt64?
    /// Absent: it has no clusters.
    package var clusterSize: UInt64?
    package var backingFilename: String?
    package var backingFilenameFormat: String?
    /// One element, or none: an image cannot hold another one by itself.
    private var backing: [BlockImageInfo] = []

    package init(filename: String, format: String, virtualSize: UInt64) {
        self.filename = filename
        self.format = format
        self.virtualSize = virtualSize
    }

    static var sample: BlockImageInfo { .init(filename: "", format: "", virtualSize: 0) }

    /// The image behind it; absent if there is none, or if it was not asked for.
    package var backingImage: BlockImageInfo? {
        get { backing.first }
        set { backing = newValue.map { [$0] } ?? [] }
    }

    /// How many images are behind it.
    package var depth: Int { backingImage.map { $0.depth + 1 } ?? 0 }

    private enum CodingKeys: String, CodingKey {
        case filename, format
        case virtualSize = "virtual-size"
        case actualSize = "actual-size"
        case clusterSize = "cluster-size"
        case backingFilename = "backing-filename"
        case backingFilenameFormat = "backing-filename-format"
        case backingImage = "backing-image"
    }

    package init(from decoder: any Decoder) throws {
        let members = try decoder.container(keyedBy: CodingKeys.self)
        filename = try members.decode(String.self, forKey: .filename)
        format = try members.decode(String.self, forKey: .format)
        virtualSize = try members.decode(UInt64.self, forKey: .virtualSize)
        actualSize = try members.decodeIfPresent(UInt64.self, forKey: .actualSize)
        clusterSize = try members.decodeIfPresent(UInt64.self, forKey: .clusterSize)
        backingFilename = try members.decodeIfPresent(String.self, forKey: .backingFilename)
        backingFilenameFormat = try members.decodeIfPresent(
            String.self, forKey: .backingFilenameFormat)
        backingImage = try members.decodeIfPresent(BlockImageInfo.self, forKey: .backingImage)
    }

    package func encode(to encoder: any Encoder) throws {
        var members = encoder.container(keyedBy: CodingKeys.self)
        try members.encode(filename, forKey: .filename)
        try members.encode(format, forKey: .format)
        try members.encode(virtualSize, forKey: .virtualSize)
        try members.encodeIfPresent(actualSize, forKey: .actualSize)
        try members.encodeIfPresent(clusterSize, forKey: .clusterSize)
        try members.encodeIfPresent(backingFilename, forKey: .backingFilename)
        try members.encodeIfPresent(backingFilenameFormat, forKey: .backingFilenameFormat)
        try members.encodeIfPresent(backingImage, forKey: .backingImage)
    }
}
