import Bitmaps
import BlockCore
import Catalog
import Synchronization

/// One change of the bitmaps of a volume, as users ask for it.
package enum BitmapChange: Sendable {
    /// Adds a clean bitmap, which records from then on unless `isRecording` is false.
    case add(String, granularityBytes: UInt64?, isRecording: Bool)
    /// Removes a bitmap and its stored bits. The only change that an inconsistent one allows.
    case remove(String)
    /// Makes every bit clean. The bitmap then continues no point.
    case clear(String)
    /// Starts or stops recording. A bitmap that stopped continues no point from then on.
    case setRecording(String, Bool)
    /// Adds the dirty ranges of other bitmaps, of this volume or others of its length. The sources
    /// stay as they are.
    case merge([BitmapLocation], into: String)

    /// What it does, for messages.
    var operation: String {
        switch self {
        case .add: "add a bitmap"
        case .remove(let name): "remove bitmap '\(name)'"
        case .clear(let name): "clear bitmap '\(name)'"
        case .setRecording(let name, let recording):
            "\(recording ? "enable" : "disable") bitmap '\(name)'"
        case .merge(_, let target): "merge into bitmap '\(target)'"
        }
    }

    /// The rule that a debug build can break here.
    var mutant: Mutant? {
        if case .setRecording = self { .disableWithoutChunks } else { nil }
    }

    /// Makes the change in a table and in the catalog, at a quiet instant of the volume. `find` gives
    /// the bits of a merge's sources. What it throws is a `BlockError` or a `CatalogError`.
    func apply(
        to table: inout BitmapTable, of volume: Volume, in transaction: CatalogTransaction,
        find: (BitmapLocation, UInt64) throws(BlockError) -> [DirtyBitmap]
    ) throws {
        switch self {
        case .add(let name, let granularityBytes, let isRecording):
            try add(
                name, granularityBytes ?? volume.defaultGranularityBytes, isRecording, to: &table,
                of: volume, in: transaction)
        case .remove(let name):
            let entry = try table.idle(name, of: volume.name, allowsInconsistent: true)
            guard volume.bitmapReaders.withLock({ $0[name] }) == nil else {
                throw BlockError(
                    .busy, operation, on: volume.name,
                    detail: "an export offers it: `tidemark export list` shows which, remove that "
                        + "first")
            }
            try transaction.deleteBitmap(entry.record.id)
            table[name] = nil
        case .clear(let name):
            var entry = try table.idle(name, of: volume.name)
            entry.record.continues = nil
            try transaction.updateBitmap(entry.record)
            // A new set of bits instead of cleared ones: if the commit fails, the old stand.
            let clean = try DirtyBitmap(
                lengthBytes: entry.bits.lengthBytes,
                granularityBytes: entry.record.granularityBytes)
            try transaction.deleteChunks(from: 0, ofBitmap: entry.record.id)
            entry.bits = clean
            table[name] = entry
        case .setRecording(let name, let recording):
            var entry = try table.idle(name, of: volume.name)
            if entry.record.isRecording && !recording { entry.record.continues = nil }
            entry.record.isRecording = recording
            try transaction.updateBitmap(entry.record)
            table[name] = entry
        case .merge(let sources, let target):
            var entry = try table.idle(target, of: volume.name)
            // A copy, since if the commit fails the old bits stand; only what it changes is put.
            let merged = try entry.bits.resized(to: entry.bits.lengthBytes)
            for source in sources {
                for bits in try find(source, volume.lengthBytes) { try merged.merge(from: bits) }
            }
            if !Mutant.mergeWithoutChunks.isActive {
                try transaction.putChunks(merged.takeDirtyChunks(), ofBitmap: entry.record.id)
            }
            entry.bits = merged
            table[target] = entry
        }
    }

    private func add(
        _ name: String, _ granularityBytes: UInt64, _ isRecording: Bool,
        to table: inout BitmapTable, of volume: Volume, in transaction: CatalogTransaction
    ) throws {
        guard !name.isEmpty, name.utf8.count <= Volume.bitmapNameBytesMax else {
            throw BlockError(
                .invalid, operation, on: volume.name,
                detail: name.isEmpty
                    ? "Bitmap name cannot be empty" : "Bitmap name too long: \(name)")
        }
        guard table[name] == nil else {
            throw BlockError(
                .invalid, operation, on: volume.name, detail: "Bitmap already exists: \(name)")
        }
        let bits: DirtyBitmap
        do throws(BlockError) {
            bits = try DirtyBitmap(
                lengthBytes: volume.lengthBytes, granularityBytes: granularityBytes)
        } catch {
            let isOdd =
                granularityBytes.nonzeroBitCount != 1
                || granularityBytes < DirtyBitmap.granularityBytesMin
            throw BlockError(
                error.kind, isOdd ? operation : "add bitmap '\(name)'", on: volume.name,
                detail: isOdd
                    ? "Granularity must be power of 2 and at least 512" : error.detail)
        }
        let record = try transaction.insertBitmap(
            BitmapRecord(
                volumeID: volume.id, name: name, granularityBytes: granularityBytes,
                isRecording: isRecording))
        table.entries.append(BitmapEntry(record: record, bits: bits))
    }
}
