package import BlockCore

extension DirectoryRepository {
    package func backingPath(of id: PointID) async throws(BlockError) -> String {
        try await blocking { (store) throws(BlockError) in
            let (folder, chain) = try store.chain(of: id)
            guard let manifest = chain.last else { throw store.missing(id) }
            return "\(folder)/\(manifest.image.file)"
        }
    }

    package func openReader(
        _ id: PointID, isSalvaging: Bool
    ) async throws(BlockError) -> PointReader {
        if isSalvaging {
            return try await blocking { (store) throws(BlockError) in
                let chain = try SalvageChain(of: id, in: store)
                let storageBytes = try StorageSum.of(chain.parts())
                return PointReader(
                    manifest: chain.manifest,
                    device: chain.images.device(lengthBytes: chain.manifest.volume.lengthBytes),
                    isSalvaging: true, storageBytes: storageBytes,
                    pieces: PointPieces(
                        volumeBytes: chain.manifest.volume.lengthBytes,
                        nextPart: try chain.parts()))
            }
        }
        let device = try await openPoint(id)
        do throws(BlockError) {
            return try await blocking { (store) throws(BlockError) in
                let (folder, chain) = try store.chain(of: id)
                guard let manifest = chain.last else { throw store.missing(id) }
                let storageBytes = try Self.prove(chain, in: folder, store)
                let content = try store.content(of: chain, in: folder)
                return PointReader(
                    manifest: manifest, device: device, isSalvaging: false,
                    storageBytes: storageBytes,
                    pieces: PointPieces(
                        volumeBytes: content.volumeBytes,
                        nextPart: { () throws(BlockError) in
                            try content.next().map { PointPart(certain: $0) }
                        }))
            }
        } catch {
            try? await device.close()
            throw error
        }
    }

    /// Reads all tables of the chain and compares what they make with the manifest, so that no
    /// restore begins that its tables would stop in the middle. Returns the storage it needs.
    private static func prove(
        _ chain: [Manifest], in folder: String, _ store: DirectoryStore
    ) throws(BlockError) -> UInt64 {
        guard let manifest = chain.last else { return 0 }
        let content = try store.content(of: chain, in: folder)
        var digest = ContentDigest(
            point: manifest.point, freeze: manifest.freeze.time,
            volumeBytes: content.volumeBytes, algorithm: manifest.digest.algorithm,
            gridBytes: content.gridBytes)
        var sum = StorageSum()
        while let piece = try content.next() {
            sum.add(PointPart(certain: piece))
            guard let cell = piece.digest else { continue }
            digest.add(piece.range.offset / content.gridBytes, cell)
        }
        guard digest.finish() == manifest.contentDigest else {
            throw BlockError(
                .corrupt, "read the point", on: "\(folder)/\(manifest.point).json",
                detail: "the digest tables of its chain do not make its content digest")
        }
        return sum.bytes
    }
}

extension PointPart {
    /// What a whole chain says of a piece.
    init(certain piece: ContentPiece) {
        self.init(range: piece.range, digest: piece.digest, isRead: piece.digest != nil)
    }
}

/// The storage that parts need in units of 64 KiB, whichever hold anything.
private struct StorageSum {
    private static let unitBytes: UInt64 = 64 << 10

    private(set) var bytes: UInt64 = 0
    private var end: UInt64 = 0

    mutating func add(_ part: PointPart) {
        guard part.isRead else { return }
        let range = part.range.alignedOutward(to: Self.unitBytes)
        bytes += range.end - min(max(range.offset, end), range.end)
        end = range.end
    }

    static func of(_ next: () throws(BlockError) -> PointPart?) throws(BlockError) -> UInt64 {
        var sum = StorageSum()
        while let part = try next() { sum.add(part) }
        return sum.bytes
    }
}
