package import BlockCore
import Synchronization

// The order of a growth: the L1 table first, then zeroes over what the backing device would show
// beyond the old end, all of it durable, then the size. A crash before the last step leaves an image
// of the old size. A cut comes the other way round: what is cut off is discarded, then the size is
// changed; a crash between leaves zeroes at the end of an image of the old size.

extension Qcow2Device {
    /// Changes the size of the image to `lengthBytes`, rounded up to a multiple of 512. What is new
    /// reads as zeroes, whatever the backing device holds there; what is cut off is gone.
    ///
    /// Nothing may be in flight. After an error the image has its old size, and zeroes perhaps in
    /// what was to be cut off.
    package func resize(to lengthBytes: UInt64) async throws(BlockError) {
        guard !isReadOnly else { throw BlockError(.readOnly, "resize", on: nodeName) }
        guard lengthBytes <= UInt64(1) << 56 else {
            throw BlockError(
                .invalid, "resize", on: nodeName,
                detail: "\(lengthBytes) bytes are more than the format holds")
        }
        let new = lengthBytes.alignedUp(to: 512)
        let old = self.lengthBytes
        if new == old { return }
        try checkSnapshots()
        try await withTaskExecutorPreference(pool) { () async throws(BlockError) in
            try await prepare()
            if new > old {
                try await grow(from: old, to: new)
            } else {
                try await cut(from: old, to: new)
            }
        }
    }

    /// Snapshots that do not say how large the disk was when they were taken tie it to its size.
    private func checkSnapshots() throws(BlockError) {
        guard !snapshots.snapshots.isEmpty else { return }
        guard header.version >= 3, snapshots.snapshots.allSatisfy({ $0.sizeBytes != nil }) else {
            throw BlockError(
                .unsupported, "resize", on: nodeName,
                detail: "the image has internal snapshots that do not record its size; "
                    + "delete them (qemu-img snapshot -d) or convert the image")
        }
    }

    private func grow(from old: UInt64, to new: UInt64) async throws(BlockError) {
        let count = geometry.l1Count(for: new)
        guard count * 8 <= Qcow2Layout.l1BytesMax else {
            throw BlockError(
                .invalid, "resize", on: nodeName,
                detail: "\(new) bytes are too many for clusters of \(geometry.clusterBytes) bytes")
        }
        try await growL1(to: Int(count))
        if header.hasRawDataFile {
            try await pool.run { [dataFile] () throws(BlockError) in
                if try dataFile.sizeBytes() < new { try dataFile.truncate(toBytes: new) }
            }
        }
        length.store(new, ordering: .relaxed)
        do throws(BlockError) {
            // The backing device, or the last cluster's unused end, may hold something.
            let hiding = max(
                min(new, backing?.lengthBytes ?? 0), old.alignedUp(to: geometry.clusterBytes))
            try await zero(ByteRange(offset: old, end: min(hiding, new)), .unmap)
            try await flush()
            try await writeSize(new)
        } catch {
            length.store(old, ordering: .relaxed)
            throw error
        }
    }

    private func cut(from old: UInt64, to new: UInt64) async throws(BlockError) {
        try await zero(ByteRange(offset: new, end: old), .unmap)
        try await flush()
        try await writeSize(new)
        length.store(new, ordering: .relaxed)
        if header.hasRawDataFile {
            try await pool.run { [dataFile] () throws(BlockError) in
                try dataFile.truncate(toBytes: new)
            }
        }
    }

    private func writeSize(_ size: UInt64) async throws(BlockError) {
        try await pool.run { [damage] () throws(BlockError) in
            var field = [UInt8](repeating: 0, count: 8)
            field.withUnsafeMutableBytes { $0.storeBigEndian(size, at: 0) }
            try damage.replace(at: UInt64(Qcow2Layout.Field.size), with: field)
        }
    }

    /// Moves the L1 table to a larger place if it has fewer than `count` entries.
    private func growL1(to count: Int) async throws(BlockError) {
        let allocator = try writableAllocator("resize")
        try await tables.withLock { () async throws(BlockError) in
            let old = cache.l1Entries
            guard old.count < count else { return }
            let l1 = old + [UInt64](repeating: 0, count: count - old.count)
            let run = try await allocator.takeConsecutive(
                geometry.clusters(for: UInt64(count) * 8))
            let offset = geometry.bytes(of: run).offset
            let place = try await pool.run { [file, geometry, damage] () throws(BlockError) in
                try file.writeNumbers(l1, at: offset, durably: true)
                // The fields lie side by side: one write within a sector changes both or neither.
                var fields = [UInt8](repeating: 0, count: 12)
                try fields.withMutableBytes { (fields) throws(BlockError) in
                    try file.read(at: UInt64(Qcow2Layout.Field.l1Count), into: fields)
                }
                let place = fields.withUnsafeBytes {
                    ByteRange(
                        offset: $0.bigEndian(at: 4, as: UInt64.self),
                        lengthBytes: UInt64($0.bigEndian(at: 0, as: UInt32.self)) * 8)
                }
                fields.withUnsafeMutableBytes { fields in
                    fields.storeBigEndian(UInt32(count), at: 0)
                    fields.storeBigEndian(offset, at: 4)
                }
                try damage.replace(at: UInt64(Qcow2Layout.Field.l1Count), with: fields)
                return geometry.clusters(of: place)
            }
            regions?.add(run, .l1Table)
            cache.replaceL1(l1, at: offset)
            if !old.isEmpty && place.count > 0 {
                regions?.remove(place)
                allocator.free([place])
            }
        }
    }
}
