import BlockCore
import DriverQcow2
import Foundation

/// How a file looks from outside: what changes when somebody else writes or replaces it.
struct FileLook: Codable, Equatable, Sendable {
    var sizeBytes: UInt64
    /// nil for a block device, whose inode and time are those of a name in /dev, and an export.
    var inode: UInt64?
    /// When the content last changed, in nanoseconds since 1970; nil likewise.
    var modifiedNanoseconds: Int64?

    /// Looks at the file that `lock` holds. Blocks.
    init(of lock: ImageLock) throws(BlockError) {
        let status = try lock.status()
        sizeBytes = status.sizeBytes
        inode = status.isBlockDevice ? nil : status.inode
        modifiedNanoseconds = status.isBlockDevice ? nil : status.modifiedNanoseconds
    }

    /// All that is known of an export.
    init(sizeBytes: UInt64) { self.sizeBytes = sizeBytes }
}

/// How an image looks from outside, with all its files.
struct ImageFingerprint: Codable, Equatable, Sendable {
    var file: FileLook
    /// That of the file in which a qcow2 image keeps its data, if it does not do so itself.
    var dataFile: FileLook?
    /// Whether a qcow2 image bears the mark that another writer would have cleared.
    var isMarked = false

    /// Looks at an image that is locked, and for its mark unless that is known. Blocks.
    init(
        of lock: ImageLock, dataFile: ImageLock? = nil, format: ImageFormat, isMarked: Bool? = nil
    ) throws(BlockError) {
        file = try FileLook(of: lock)
        if let dataFile { self.dataFile = try FileLook(of: dataFile) }
        if let isMarked {
            self.isMarked = isMarked
        } else if format == .qcow2 {
            self.isMarked = try Qcow2WriterMark.isSet(path: lock.path)
        }
    }

    /// All that is known of an export.
    init(sizeBytes: UInt64) { file = FileLook(sizeBytes: sizeBytes) }

    /// As the catalog keeps it.
    var text: String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        // Numbers and a truth value can always be encoded.
        return (try? encoder.encode(self)).map { String(decoding: $0, as: UTF8.self) } ?? ""
    }

    /// What the catalog has; nil if that is no fingerprint.
    init?(text: String) {
        guard let decoded = try? JSONDecoder().decode(Self.self, from: Data(text.utf8)) else {
            return nil
        }
        self = decoded
    }
}
