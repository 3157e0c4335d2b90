package import BlockCore
import Synchronization

// Reads the content of a point for a restore: what the digest tables say is there, read through
// the images and compared with the digests before anybody gets it.
//
// Without salvage every doubt is an error: a gap in the chain and tables that do not make the
// content digest of the manifest when it is opened, data that differs or cannot be read when it is
// met. With salvage it is reported with the piece, and the restore goes on: `SalvageChain` says
// what is read where.

/// The content of a point, piece by piece, with proof. Any number of tasks may read at once.
package final class PointReader: Sendable {
    package let point: PointID
    package let manifest: Manifest
    /// The exact length of the volume.
    package let lengthBytes: UInt64
    /// What a copy needs if it is stored in units of 64 KiB, without its metadata.
    package let storageBytes: UInt64

    private let device: (any BlockDevice)?
    private let isSalvaging: Bool
    private let pieces: Mutex<PointPieces>

    /// `device` shows what is read, nil if nothing can be; it is closed with the reader.
    init(
        manifest: Manifest, device: (any BlockDevice)?, isSalvaging: Bool, storageBytes: UInt64,
        pieces: sending PointPieces
    ) {
        point = manifest.point
        self.manifest = manifest
        lengthBytes = manifest.volume.lengthBytes
        self.storageBytes = storageBytes
        self.device = device
        self.isSalvaging = isSalvaging
        self.pieces = Mutex(pieces)
    }

    /// The next piece in ascending order; nil at the end. May block.
    package func next() throws(BlockError) -> PointPiece? {
        try pieces.withLock { (pieces) throws(BlockError) in try pieces.next() }
    }

    /// Fills `destination`, as long as the piece, with its content, compared with its digests.
    /// Returns what of it is not certain; without salvage that throws.
    package func read(
        _ piece: PointPiece, into destination: BufferSlice
    ) async throws(BlockError) -> [LostRange] {
        var lost: [LostRange] = []
        var index = 0
        while index < piece.parts.count {
            guard piece.parts[index].isRead else {
                lost += clear(piece.parts[index], piece, destination)
                index += 1
                continue
            }
            var end = index + 1
            while end < piece.parts.count, piece.parts[end].isRead { end += 1 }
            lost += try await read(Array(piece.parts[index..<end]), piece, destination)
            index = end
        }
        return lost
    }

    /// What of a piece of which nothing is read is not certain.
    package func doubts(about piece: PointPiece) -> [LostRange] {
        piece.parts.compactMap { part in
            part.doubt.map { LostRange(range: part.range, reason: $0) }
        }
    }

    /// Whether `content`, as long as the piece, is proven to be what `read` would give.
    package func matches(_ piece: PointPiece, _ content: BufferSlice) -> Bool {
        piece.parts.allSatisfy { part in
            let bytes = slice(of: part, piece, content).readOnlyBytes
            guard part.isRead else { return bytes.isAllZero }
            return part.digest.map { manifest.digest.algorithm.digest(of: bytes) == $0 } ?? false
        }
    }

    /// Closes the images. No `read` may be in flight or follow.
    package func close() async throws(BlockError) { try await device?.close() }

    private func read(
        _ parts: [PointPart], _ piece: PointPiece, _ destination: BufferSlice
    ) async throws(BlockError) -> [LostRange] {
        guard let device, let first = parts.first, let last = parts.last else { return [] }
        let range = ByteRange(offset: first.range.offset, end: last.range.end)
        let target = destination.slice(
            Int(range.offset - piece.range.offset), Int(range.lengthBytes))
        var isRead = true
        do throws(BlockError) {
            try await device.read(at: range.offset, into: target)
        } catch {
            guard isSalvaging else { throw error }
            isRead = false
        }
        var lost: [LostRange] = []
        for part in parts {
            let content = slice(of: part, piece, destination)
            // One unreadable sector does not condemn its neighbours: each cell is tried again.
            if !isRead, let failure = await failureToRead(part, into: content, from: device) {
                content.bytes.initializeMemory(as: UInt8.self, repeating: 0)
                lost.append(
                    LostRange(
                        range: part.range, reason: "zeroes: it cannot be read (\(failure))"))
            } else if let fault = try fault(of: part, content.readOnlyBytes) {
                lost.append(LostRange(range: part.range, reason: fault))
            }
        }
        return lost
    }

    private func failureToRead(
        _ part: PointPart, into content: BufferSlice, from device: any BlockDevice
    ) async -> BlockError? {
        do throws(BlockError) {
            try await device.read(at: part.range.offset, into: content)
            return nil
        } catch {
            return error
        }
    }

    private func fault(
        of part: PointPart, _ bytes: UnsafeRawBufferPointer
    ) throws(BlockError) -> String? {
        if let digest = part.digest, manifest.digest.algorithm.digest(of: bytes) != digest {
            guard isSalvaging else {
                throw BlockError(
                    .corrupt, "read the point", on: point.text, range: part.range,
                    detail: "the data differ from their digest: they are not what was backed up")
            }
            return "as it was read: it differs from its digest"
        }
        return part.doubt
    }

    private func clear(
        _ part: PointPart, _ piece: PointPiece, _ destination: BufferSlice
    ) -> [LostRange] {
        slice(of: part, piece, destination).bytes.initializeMemory(as: UInt8.self, repeating: 0)
        return part.doubt.map { [LostRange(range: part.range, reason: $0)] } ?? []
    }

    private func slice(
        of part: PointPart, _ piece: PointPiece, _ buffer: BufferSlice
    ) -> BufferSlice {
        buffer.slice(
            Int(part.range.offset - piece.range.offset), Int(part.range.lengthBytes))
    }
}
