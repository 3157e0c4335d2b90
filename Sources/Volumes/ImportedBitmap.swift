import Bitmaps
import BlockCore
import Catalog
import DriverQcow2

/// A dirty bitmap that an image brings along when it becomes a volume.
///
/// QEMU keeps bitmaps in its images. From the import on the catalog has them; those in the image are
/// marked as in use before guest data first changes, so QEMU does not take them for true after that.
struct ImportedBitmap: Sendable {
    /// Of volume 0 until it is added.
    private let record: BitmapRecord
    private let bits: DirtyBitmap

    /// The bitmaps of the top image of a chain. One that was in use when its last writer went
    /// comes as inconsistent, as QEMU shows it too. Blocks.
    static func all(
        of chain: ImageChain, lengthBytes: UInt64
    ) throws(BlockError) -> [ImportedBitmap] {
        let top = chain.nodes[0]
        guard top.format == .qcow2, top.lock != nil else { return [] }
        var imported: [ImportedBitmap] = []
        for content in try Qcow2BitmapContent.all(path: top.path) {
            imported.append(try ImportedBitmap(content, lengthBytes: lengthBytes))
        }
        return imported
    }

    private init(_ content: Qcow2BitmapContent, lengthBytes: UInt64) throws(BlockError) {
        bits = try DirtyBitmap(
            lengthBytes: lengthBytes, granularityBytes: content.granularityBytes)
        if !content.isInUse { try content.forEachDirtyRange { [bits] in bits.mark($0) } }
        record = BitmapRecord(
            volumeID: 0, name: content.name, granularityBytes: content.granularityBytes,
            isRecording: content.isAutomatic,
            inconsistency: content.isInUse
                ? "the image's last writer did not store it" : nil)
    }

    /// Adds it to a volume of the catalog.
    func insert(
        intoVolume volumeID: Int64, _ transaction: CatalogTransaction
    ) throws(CatalogError) {
        var record = record
        record.volumeID = volumeID
        let inserted = try transaction.insertBitmap(record)
        // A failed transaction makes no volume: nobody takes these chunks again.
        try transaction.putChunks(bits.takeDirtyChunks(), ofBitmap: inserted.id)
    }
}
