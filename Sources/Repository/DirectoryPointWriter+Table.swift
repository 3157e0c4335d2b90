import BlockCore
import Synchronization

extension DirectoryPointWriter {
    /// Writes the digest table under its temporary name, durably, and checks that the point holds
    /// what it must.
    func writeTable() throws(BlockError) -> Manifest.Extents {
        let path = files.digestsTemporary
        let writer = DigestTableWriter(
            file: try store.files.open(path, .create), header: header)
        let hold = rangeToHold
        var heldBytes: UInt64 = 0
        var sorter = state.withLock { $0.sorter }
        try sorter.finish { (record) throws(BlockError) in
            heldBytes += record.range.intersection(hold).lengthBytes
            try writer.append(record)
        }
        let covered = writer.dataBytes + writer.zeroBytes
        guard plan.level != .full || covered == plan.lengthBytes else {
            throw BlockError(
                .invalid, "commit the point", on: plan.id.text,
                detail: "a full covers the whole volume: \(plan.lengthBytes - covered) bytes of "
                    + "\(plan.lengthBytes) were not written")
        }
        guard heldBytes == hold.lengthBytes else {
            throw BlockError(
                .invalid, "commit the point", on: plan.id.text, range: hold,
                detail: "the volume's length changed, so an increment must hold this range")
        }
        let header = try writer.finish()
        return Manifest.Extents(
            file: DirectoryWriterFiles.digestsName(plan.id),
            lengthBytes: header.tableBytes ?? 0, sha256: "", recordCount: header.recordCount,
            dataBytes: writer.dataBytes, zeroBytes: writer.zeroBytes)
    }

    /// The manifest but for its seal. The table is read back and merged with those of the chain
    /// below, which gives the content digest, and the table's SHA-256 on the way.
    func describe(extents: Manifest.Extents) throws(BlockError) -> Manifest {
        var readers: [DigestTableReader] = []
        if let parent = plan.parent {
            let (folder, chain) = try store.chain(of: parent.point)
            for manifest in chain { readers.append(try store.table(of: manifest, in: folder)) }
        }
        let own = try DigestTableReader(path: files.digestsTemporary, files: store.files)
        let content = try PointContent(readers + [own])
        let contentDigest = try ContentDigest.of(
            content, point: plan.id, freeze: plan.freezeTime, algorithm: header.algorithm)
        guard let sha256 = own.sha256, own.header.tableBytes == extents.lengthBytes else {
            throw BlockError(
                .corrupt, "read the digest table", on: files.digestsTemporary,
                detail: "it is not what was written")
        }
        var extents = extents
        extents.sha256 = sha256
        return Manifest(
            point: plan.id,
            volume: .init(
                uuid: plan.volumeUUID, name: plan.volumeName, lengthBytes: plan.lengthBytes),
            level: plan.level, reason: plan.reason, explanation: plan.explanation,
            parent: plan.parent.map { .init(point: $0.point, contentDigest: $0.contentDigest) },
            group: plan.group, granularityBytes: plan.granularityBytes,
            digest: .init(algorithm: header.algorithm, gridBytes: plan.gridBytes),
            freeze: .init(
                time: plan.freezeTime, durationMicroseconds: plan.freezeMicroseconds),
            guest: state.withLock { $0.interference },
            image: .init(
                file: DirectoryWriterFiles.imageName(plan.id),
                lengthBytes: Grid.imageBytes(volumeBytes: plan.lengthBytes),
                clusterBytes: plan.clusterBytes, storedBytes: storedBytes,
                compression: plan.compression),
            extents: extents, contentDigest: contentDigest, tool: Manifest.tool)
    }
}
