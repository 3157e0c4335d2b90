import BlockCore
import Catalog
import Foundation

// Whether the bitmaps of a volume still tell all that changed in its images.
//
// They do only while every write goes through the agent. So, when a volume is opened, its images
// are compared with what the catalog recorded of them:
//
//   after a clean close   size, inode and time of every image; the mark of a qcow2 top, which
//                         another writer clears even if he sets the time back
//   after an unclean one  the same for the backing images, which nobody writes. Our own last
//                         writes changed the top after anything that could be recorded. What is
//                         known is the last heartbeat, at most `heartbeatInterval` before our end:
//                         a time of the image that is later than that, and a margin, is not ours,
//                         nor is one before our last open
//
// A change of the top shortly after an unclean stop, or one with the time set back, cannot be seen;
// nor can changes of a block device, of which only the size is compared. Of an export of an NBD
// server nothing can be told at all: it is never trusted across a stop.

/// The comparison of images with what is recorded of them.
enum ImageTrust {
    /// How often an open volume is recorded as open.
    static let heartbeatInterval = Duration.seconds(5)
    /// How much later than the interval says a heartbeat may be on a busy host.
    static let heartbeatMargin = Duration.seconds(10)

    /// Why the bitmaps of `volume` cannot be trusted; nil if they can.
    static func doubt(
        _ volume: VolumeRecord, recorded: [NodeRecord], found: [ImageNode]
    ) -> String? {
        guard recorded.count == found.count,
            zip(recorded, found).allSatisfy({
                $0.path == $1.path && $0.format == $1.format.rawValue
            })
        else { return "the backing chain is not the recorded one" }
        for (position, (record, node)) in zip(recorded, found).enumerated() {
            guard node.lock != nil else {
                return "\(node.path) may have been written by others: its server cannot tell"
            }
            guard let text = record.fingerprint, let expected = ImageFingerprint(text: text) else {
                return "no fingerprint of \(node.path) is recorded"
            }
            let comparison = Comparison(path: node.path, expected: expected, found: node.found)
            let doubt =
                position > 0 || volume.isCleanlyClosed
                ? comparison.afterCleanClose()
                : comparison.afterUncleanStop(format: node.format, volume.heartbeatAt)
            if let doubt { return doubt }
        }
        return nil
    }
}

private struct Comparison {
    let path: String
    let expected: ImageFingerprint
    let found: ImageFingerprint

    func afterCleanClose() -> String? {
        if let doubt = ofIdentity(includingSize: true) { return doubt }
        if let time = found.modifiedNanoseconds, time != expected.modifiedNanoseconds {
            return "\(path) was changed by something else at \(Self.text(time))"
        }
        if expected.isMarked && !found.isMarked {
            return "\(path) was opened for writing by something else: its mark is gone"
        }
        return nil
    }

    func afterUncleanStop(format: ImageFormat, _ heartbeat: Date?) -> String? {
        // A qcow2 file grows while it is written.
        if let doubt = ofIdentity(includingSize: format == .raw) { return doubt }
        guard let time = found.modifiedNanoseconds else { return nil }
        if let opened = expected.modifiedNanoseconds, time < opened {
            return "\(path) is older than when the agent last opened it: it was put back"
        }
        guard let heartbeat else { return "no heartbeat of the last run is recorded" }
        let allowed = ImageTrust.heartbeatInterval + ImageTrust.heartbeatMargin
        let latest = heartbeat.addingTimeInterval(TimeInterval(allowed.components.seconds))
        guard Double(time) / 1e9 <= latest.timeIntervalSince1970 else {
            return "\(path) was changed at \(Self.text(time)), after the agent's unclean stop"
        }
        return nil
    }

    private func ofIdentity(includingSize: Bool) -> String? {
        if found.inode != expected.inode { return "\(path) was replaced by another file" }
        if includingSize, found.sizeBytes != expected.sizeBytes {
            return "\(path) has \(found.sizeBytes) bytes instead of \(expected.sizeBytes)"
        }
        return nil
    }

    private static func text(_ nanoseconds: Int64) -> String {
        Date(timeIntervalSince1970: Double(nanoseconds) / 1e9).formatted(.iso8601)
    }
}
