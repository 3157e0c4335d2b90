package import BlockCore

/// What an image says of itself, read without opening it: for people who want to know.
package struct Qcow2Info: Sendable {
    /// 2 or 3.
    package let version: UInt32
    /// The guest-visible size.
    package let sizeBytes: UInt64
    package let clusterBytes: UInt64
    package let refcountBits: Int
    package let compression: Qcow2Header.Compression
    package let backing: Qcow2Backing?
    /// The file that holds the data, where that is not the image itself.
    package let dataFile: String?
    /// Whether the external file alone is a valid raw image of the same content.
    package let isDataFileRaw: Bool
    package let hasLazyRefcounts: Bool
    package let hasExtendedL2: Bool
    package let isMarkedDirty: Bool
    package let isMarkedCorrupt: Bool
    package let snapshots: [Qcow2Snapshot]
    package let bitmaps: [Qcow2Bitmap]
    /// Parts of the metadata that cannot be read, and why; the rest is still good.
    package let problems: [String]

    /// Reads what the image at `path` says. Blocks.
    package init(path: String) throws(BlockError) {
        let file = try HostFile(path: path, access: .readOnly)
        let header = try StoredHeader(file: file)
        version = header.version
        sizeBytes = header.sizeBytes
        clusterBytes = header.clusterBytes
        refcountBits = 1 << header.refcountOrder
        compression = header.compressionType == 1 ? .zstd : .deflate
        backing = header.backingName.map {
            Qcow2Backing(
                name: $0, format: header.text(of: Qcow2Layout.Extension.backingFormat))
        }
        dataFile =
            header.hasExternalData ? header.text(of: StoredHeader.ExtensionType.dataFile) : nil
        isDataFileRaw = header.hasExternalData && header.autoclear & 2 != 0
        hasLazyRefcounts = header.compatible & 1 != 0
        hasExtendedL2 = header.hasExtendedL2
        isMarkedDirty = header.isDirty
        isMarkedCorrupt = header.isCorrupt
        var problems: [String] = []
        var snapshots: [Qcow2Snapshot] = []
        var bitmaps: [Qcow2Bitmap] = []
        do throws(BlockError) {
            snapshots = try StoredSnapshots(file: file, header: header).snapshots
        } catch {
            problems.append("\(error)")
        }
        do throws(BlockError) {
            bitmaps = try StoredBitmaps(file: file, header: header)?.bitmaps ?? []
        } catch {
            problems.append("\(error)")
        }
        self.snapshots = snapshots
        self.bitmaps = bitmaps
        self.problems = problems
    }
}
