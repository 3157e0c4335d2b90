import BlockCore

/// The refcounts that an image says it has, read for a check: damage gives no error but no answer.
/// Holds the table, at most 8 MiB, and 8 MiB of blocks.
final class RefcountReader {
    private static let cachedBytesMax = 8 << 20

    /// The entries of the refcount table.
    let table: [UInt64]
    let countsPerBlock: UInt64
    private let file: any StorageFile
    private let header: StoredHeader
    private var blocks: [Int: RefcountBlock] = [:]

    init(file: any StorageFile, header: StoredHeader) throws(BlockError) {
        self.file = file
        self.header = header
        countsPerBlock = header.countsPerBlock
        let count = Int(header.refcountTableClusters) << (header.clusterBits - 3)
        table = try file.readNumbers(count, at: header.refcountTableOffset)
    }

    /// Where block `number` is; nil where there is none, or none that can be read.
    func blockOffset(_ number: UInt64) -> UInt64? {
        guard number < UInt64(table.count) else { return nil }
        let entry = table[Int(number)]
        guard entry != 0, entry % header.clusterBytes == 0,
            entry <= UInt64(Int64.max) - header.clusterBytes
        else { return nil }
        return entry
    }

    /// Whether the table names block `number` in a way that leaves its refcounts unknown.
    func isBroken(_ number: UInt64) -> Bool {
        number < UInt64(table.count) && table[Int(number)] != 0 && blockOffset(number) == nil
    }

    /// Block `number`; nil where there is none that can be read.
    func block(_ number: UInt64) throws(BlockError) -> RefcountBlock? {
        guard let offset = blockOffset(number) else { return nil }
        if let block = blocks[Int(number)] { return block }
        let block = RefcountBlock(
            bytes: try file.readBytes(Int(header.clusterBytes), at: offset),
            order: header.refcountOrder)
        if blocks.count >= max(4, Self.cachedBytesMax / Int(header.clusterBytes)) { blocks = [:] }
        blocks[Int(number)] = block
        return block
    }

    /// The refcount of `cluster`; nil if damage hides it.
    func count(of cluster: UInt64) throws(BlockError) -> UInt64? {
        let number = cluster / countsPerBlock
        if let block = try block(number) { return block[Int(cluster % countsPerBlock)] }
        return isBroken(number) ? nil : 0
    }
}
