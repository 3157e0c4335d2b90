import BlockCore
import DriverQcow2
import Foundation

/// How an image looks from outside: what changes when somebody else writes or replaces it.
struct ImageFingerprint: Codable, Equatable, Sendable {
    var sizeBytes: UInt64
    /// nil for a block device, whose inode and time are those of a name in /dev, and an export.
    var inode: UInt64?
    /// When the content last changed, in nanoseconds since 1970; nil likewise.
    var modifiedNanoseconds: Int64?
    /// Whether a qcow2 image bears the mark that another writer would have cleared.
    var isMarked: Bool

    /// Looks at the image that `lock` holds. Blocks.
    init(of lock: ImageLock, format: ImageFormat) throws(BlockError) {
        let status = try lock.status()
        sizeBytes = status.sizeBytes
        inode = status.isBlockDevice ? nil : status.inode
        modifiedNanoseconds = status.isBlockDevice ? nil : status.modifiedNanoseconds
        isMarked = format == .qcow2 ? try Qcow2WriterMark.isSet(path: lock.path) : false
    }

    /// All that is known of an export.
    init(sizeBytes: UInt64) {
        self.sizeBytes = sizeBytes
        isMarked = false
    }

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
