import Bitmaps
package import BlockCore
import Catalog
import Synchronization

// A volume of another length.
//
//   growth   image first, then in one transaction the length, the bitmaps with the new bytes
//            marked, the emptied log: the new bytes are zeroes that no point has yet
//   cut      the transaction first, then the image
//
// So at every instant the image is at least as long as the catalog says, and a crash leaves the
// volume at its old length or at its new one. What the image has beyond its volume is zeroed before
// the volume grows over it: it may be a remnant of a cut that a crash interrupted.

extension Volume {
    /// Changes the length. Clients that are connected keep to the old one until they connect again.
    /// A cut takes place only if `mayCut`: what lies behind the new end is gone.
    package func resize(to newLength: UInt64, mayCut: Bool = false) async throws(BlockError) {
        guard let hold = await locks.acquire(Self.allBytes, within: .seconds(10)) else {
            throw BlockError(
                .busy, "resize", on: name,
                detail: "writes in flight did not finish within 10 s; try again")
        }
        defer { locks.release(hold) }
        let oldLength = lengthBytes
        try checkResize(to: newLength, mayCut: mayCut)
        if newLength > oldLength {
            try await growImage(from: oldLength, to: newLength)
            try await commitLength(newLength)
        } else if newLength < oldLength {
            try await commitLength(newLength)
            try await chain.resizeTop(to: newLength)
            try await commitLength(newLength)
        }
    }

    private func checkResize(to newLength: UInt64, mayCut: Bool) throws(BlockError) {
        if isReadOnly { throw BlockError(.readOnly, "resize", on: name) }
        guard newLength > 0 else {
            throw BlockError(.invalid, "resize", on: name, detail: "a volume has at least a byte")
        }
        guard mayCut || newLength >= lengthBytes else {
            throw BlockError(
                .invalid, "resize", on: name,
                detail: "what lies behind \(newLength) bytes would be lost: "
                    + "say that it may be, with --shrink")
        }
        if let user = workingJobID ?? imageUse {
            throw BlockError(
                .busy, "resize", on: name,
                detail: "\(user) is at work on it: wait for that or cancel it")
        }
        guard frozenBitmaps().isEmpty, duties.points.isEmpty else {
            throw BlockError(
                .busy, "resize", on: name,
                detail: "it is being backed up: wait for the job or cancel it")
        }
    }

    private func growImage(from oldLength: UInt64, to newLength: UInt64) async throws(BlockError) {
        let remnant = ByteRange(offset: oldLength, end: min(top.lengthBytes, newLength))
        if !remnant.isEmpty, !Mutant.growOverRemnant.isActive {
            try await top.writeZeroes(remnant, mayUnmap: true)
        }
        if top.lengthBytes < newLength { try await chain.resizeTop(to: newLength) }
        try await top.flush()
    }

    /// On the catalog's thread with the volume held: the catalog first, then memory.
    private func commitLength(_ newLength: UInt64) async throws(BlockError) {
        try await queue.run { [self] (catalog) throws(BlockError) in
            let added = ByteRange(offset: lengthBytes, end: newLength)
            let table = try resizedBitmaps(to: newLength, marking: added)
            let regionBytes = ActivityLog.regionBytes(forLength: newLength)
            let fingerprint = try chain.lookAtTop().text
            // What the old bits had to persist goes first; what the new ones add replaces it.
            try persistAll(in: catalog) { (transaction) throws(CatalogError) in
                for entry in table.entries {
                    try transaction.deleteChunks(
                        from: entry.bits.chunkCount, ofBitmap: entry.record.id)
                    try transaction.putChunks(
                        entry.bits.takeDirtyChunks(), ofBitmap: entry.record.id)
                }
                try transaction.setLength(newLength, regionBytes: regionBytes, volume: id)
                try transaction.setFingerprints([fingerprint], ofVolume: id)
            }
            log.end()
            log = ActivityLog(
                volumeID: id, lengthBytes: newLength, regionBytes: regionBytes,
                durability: log.durability, queue: queue)
            bitmaps.withLock { $0 = table }
            duties.recording = table.recording
            length.store(newLength, ordering: .relaxed)
        }
    }

    private func resizedBitmaps(
        to newLength: UInt64, marking added: ByteRange
    ) throws(BlockError) -> BitmapTable {
        var table = bitmaps.withLock { $0 }
        for index in table.entries.indices {
            let entry = table.entries[index]
            do throws(BlockError) {
                table.entries[index].bits = try entry.bits.resized(to: newLength)
            } catch {
                var named = error
                named.detail = "bitmap '\(entry.name)': \(error.detail ?? error.kind.rawValue)"
                throw named
            }
            if entry.recordingBits != nil, !Mutant.growWithoutMarking.isActive {
                table.entries[index].bits.mark(added)
            }
        }
        return table
    }
}
