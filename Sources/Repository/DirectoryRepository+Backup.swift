package import BlockCore

/// What backups need besides a writer: the parent's content, and groups.
extension DirectoryRepository {
    package func openContent(of id: PointID) async throws(BlockError) -> ContentCursor {
        let pool = pool
        return try await blocking { (store) throws(BlockError) in
            let (folder, chain) = try store.chain(of: id)
            let algorithm = chain[chain.count - 1].digest.algorithm
            return ContentCursor(
                try store.content(of: chain, in: folder), algorithm: algorithm, pool: pool)
        }
    }

    package func checkChain(of id: PointID) async throws(BlockError) -> Manifest {
        try await blocking { (store) throws(BlockError) in
            try DirectoryVerification.checkChain(of: id, in: store)
        }
    }

    package func withdraw(_ manifest: Manifest) async throws(BlockError) {
        let id = manifest.point
        guard try await !pins().contains(where: { $0.point == id }) else {
            throw Self.isNeeded(id, by: "a pin")
        }
        try await blocking { (store) throws(BlockError) in
            guard let folder = try store.folder(of: id) else { return }
            for name in try store.names(in: folder) {
                // One that is damaged depends on whatever it may.
                guard case .manifest(let other) = PointFileName(name), other != id else { continue }
                if try store.manifest(other, in: folder).parent?.point == id {
                    throw Self.isNeeded(id, by: "the point \(other)")
                }
            }
            // The manifest first: without it there is no point, whatever else is left.
            let files = store.files
            try files.removeFile("\(folder)/\(id).json")
            try files.flush(folder)
            try files.removeFile("\(folder)/\(DirectoryWriterFiles.digestsName(id))")
            try files.removeFile("\(folder)/\(DirectoryWriterFiles.imageName(id))")
        }
    }

    private static func isNeeded(_ id: PointID, by what: String) -> BlockError {
        BlockError(.busy, "take the point back", on: id.text, detail: "\(what) depends on it")
    }

    package func commitGroup(_ manifest: GroupManifest) async throws(BlockError) {
        try await blocking { (store) throws(BlockError) in
            try GroupFolder(store: store).publish(manifest)
        }
    }

    package func groups() async throws(BlockError) -> [GroupManifest] {
        try await blocking { (store) throws(BlockError) in
            try GroupFolder(store: store).all()
        }
    }
}
