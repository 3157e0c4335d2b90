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
//                         nor is one before our last open. The same of an image below the top that
//                         a job was writing
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
        if let doubt = lostAnnouncements(of: volume) { return doubt }
        if Mutant.trustChangedImage.isActive { return nil }
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
            let isSettled = position > 0 || volume.isCleanlyClosed
            let mayHaveChanged = !isSettled || record.change == .written
            let heartbeat = mayHaveChanged ? Heartbeat(last: volume.heartbeatAt) : nil
            if let doubt = doubt(node, expected, heartbeat, mayGrow: record.change == .written) {
                return doubt
            }
        }
        return nil
    }

    /// A host that went down may have taken the last announcements of a volume with it that asks
    /// for durability against a process's end only.
    private static func lostAnnouncements(of volume: VolumeRecord) -> String? {
        if volume.isCleanlyClosed || volume.durability == .power { return nil }
        if Mutant.trustProcessAfterPowerLoss.isActive { return nil }
        if let bootID = volume.bootID, bootID == HostBoot.currentID { return nil }
        return "the host went down while it was open, and its durability is \"process\""
    }

    /// With `heartbeat` the image may have been written by us until that ended.
    private static func doubt(
        _ node: ImageNode, _ expected: ImageFingerprint, _ heartbeat: Heartbeat?, mayGrow: Bool
    ) -> String? {
        let found = node.found
        // A qcow2 file grows while it is written.
        let file = Comparison(
            path: node.path, expected: expected.file, found: found.file,
            comparesSize: heartbeat == nil || node.format == .raw && !mayGrow)
        if let doubt = file.doubt(heartbeat) { return doubt }
        guard (expected.dataFile == nil) == (found.dataFile == nil) else {
            return "\(node.path) keeps its data elsewhere than before"
        }
        if let expected = expected.dataFile, let found = found.dataFile {
            let data = Comparison(
                path: node.dataLock?.path ?? "the data file of \(node.path)", expected: expected,
                found: found, comparesSize: heartbeat == nil)
            if let doubt = data.doubt(heartbeat) { return doubt }
        }
        if heartbeat == nil, expected.isMarked, !found.isMarked {
            return "\(node.path) was opened for writing by something else: its mark is gone"
        }
        return nil
    }
}

/// Until when what changed may have been our work.
private struct Heartbeat {
    let last: Date?

    var latest: Date? {
        let allowed = ImageTrust.heartbeatInterval + ImageTrust.heartbeatMargin
        return last?.addingTimeInterval(TimeInterval(allowed.components.seconds))
    }
}

private struct Comparison {
    let path: String
    let expected: FileLook
    let found: FileLook
    let comparesSize: Bool

    func doubt(_ heartbeat: Heartbeat?) -> String? {
        if found.inode != expected.inode { return "\(path) was replaced by another file" }
        if comparesSize, found.sizeBytes != expected.sizeBytes {
            return "\(path) has \(found.sizeBytes) bytes instead of \(expected.sizeBytes)"
        }
        guard let time = found.modifiedNanoseconds, let recorded = expected.modifiedNanoseconds
        else { return nil }
        guard let heartbeat else {
            if time == recorded { return nil }
            return "\(path) was changed by something else at \(Self.text(time))"
        }
        if time < recorded {
            return "\(path) is older than when the agent last opened it: it was put back"
        }
        guard let latest = heartbeat.latest else {
            return "no heartbeat of the last run is recorded"
        }
        guard
            Double(time) / 1e9 <= latest.timeIntervalSince1970 || Mutant.trustLateImage.isActive
        else {
            return "\(path) was changed at \(Self.text(time)), after the agent's unclean stop"
        }
        return nil
    }

    private static func text(_ nanoseconds: Int64) -> String {
        Date(timeIntervalSince1970: Double(nanoseconds) / 1e9).formatted(.iso8601)
    }
}
