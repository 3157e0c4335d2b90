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
