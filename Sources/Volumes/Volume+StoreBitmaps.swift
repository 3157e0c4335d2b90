import Bitmaps
import BlockCore
import Catalog
import DriverQcow2
import Synchronization

// How a volume that is given up leaves its bitmaps to QEMU, in its image. See `ImportedBitmap` for
// the other direction.

extension Volume {
    /// Throws unless the image has a place for bitmaps.
    func checkCanStoreBitmaps() throws(BlockError) {
        guard let image = top as? Qcow2Device, !image.isReadOnly, image.header.version >= 3 else {
            throw BlockError(
                .unsupported, "store the bitmaps of \(name)", on: chain.nodes[0].path,
                detail: "only a qcow2 image of version 3 has a place for them")
        }
    }

    /// Has the image list the bitmaps. The whole volume is held, and its device is closed next.
    ///
    /// An inconsistent one is left out: there is nothing in it to go on with.
    func storeBitmaps() async throws(BlockError) {
        guard let image = top as? Qcow2Device else { return }
        let entries = bitmaps.withLock { $0.entries }
        try await image.storeBitmaps(
            entries.filter { !$0.record.isInconsistent }.map { entry in
                Qcow2BitmapSource(
                    name: entry.name, granularityBytes: entry.record.granularityBytes,
                    isAutomatic: entry.record.isRecording,
                    lengthBytes: UInt64(entry.bits.wordCount) * 8
                ) { offset, destination in
                    entry.bits.copyWords(from: Int(offset / 8), into: destination)
                }
            })
    }
}
