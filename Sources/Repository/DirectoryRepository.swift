package import BlockCore
import DriverQcow2

/// A repository that is a directory of qcow2 files with their manifests.
///
/// It holds nothing in memory but where it is and what it says about itself: each call looks at the
/// files, so that several hosts can use one directory.
package final class DirectoryRepository: BackupRepository {
    package let location: String
    package var details: RepositoryDescription { store.details }

    let store: DirectoryStore
    let pool: IOPool

    private init(
        root: String, details: RepositoryDescription, pool: IOPool, files: any FileSystem
    ) {
        location = root
        store = DirectoryStore(root: root, details: details, files: files)
        self.pool = pool
    }

    /// Makes a repository in the directory `path`, which is created if need be and must be empty.
    package static func create(
        at path: String, algorithm: DigestAlgorithm = .xxh3, pool: IOPool = .background,
        files: any FileSystem = HostFileSystem()
    ) async throws(BlockError) -> DirectoryRepository {
        let root = trimmed(path)
        let details = RepositoryDescription(algorithm: algorithm)
        try await pool.run { () throws(BlockError) in
            try files.createDirectory(root)
            // A file system's own folder is in every mount point of its kind.
            let names = try files.names(in: root).filter { $0 != "lost+found" }
            guard !names.contains(RepositoryDescription.fileName) else {
                throw BlockError(
                    .invalid, "make a repository", on: root,
                    detail: "there is one already; add it instead")
            }
            guard names.isEmpty else {
                throw BlockError(
                    .invalid, "make a repository", on: root,
                    detail: "the folder holds something else (\(names[0])); use an empty one")
            }
            try files.replaceFile(
                "\(root)/\(RepositoryDescription.fileName)", with: try details.encoded())
            try files.flush("\(root)/..")
        }
        return DirectoryRepository(root: root, details: details, pool: pool, files: files)
    }

    /// Opens the repository in the directory `path`. Throws `notFound` if there is none, and
    /// `unsupported` if it is of a newer format.
    package static func open(
        at path: String, pool: IOPool = .background, files: any FileSystem = HostFileSystem()
    ) async throws(BlockError) -> DirectoryRepository {
        let root = trimmed(path)
        let details = try await pool.run { () throws(BlockError) in
            try DirectoryStore.describe(root, files)
        }
        return DirectoryRepository(root: root, details: details, pool: pool, files: files)
    }

    private static func trimmed(_ path: String) -> String {
        var path = path
        while path.count > 1, path.hasSuffix("/") { path.removeLast() }
        return path
    }

    package func points() async throws(BlockError) -> [PointSummary] {
        try await blocking { (store) throws(BlockError) in try store.points() }
    }

    package func chain(for id: PointID) async throws(BlockError) -> [Manifest] {
        try await blocking { (store) throws(BlockError) in try store.chain(of: id).manifests }
    }

    package func contains(
        _ id: PointID, volumeUUID: String
    ) async throws(BlockError) -> PointPresence {
        try await blocking { (store) throws(BlockError) in
            guard let folder = try store.folder(of: id) else { return .absent }
            let manifest = try store.manifest(id, in: folder)
            guard manifest.volume.uuid == volumeUUID else { return .absent }
            _ = try store.table(of: manifest, in: folder)
            _ = try Qcow2Header(
                file: store.files.open("\(folder)/\(manifest.image.file)", .readOnly))
            return .whole
        }
    }

    package func beginPoint(
        _ plan: PointPlan, retry: WriteRetry?
    ) async throws(BlockError) -> any PointWriter {
        let pool = pool
        return try await blocking { (store) throws(BlockError) in
            try DirectoryPointWriter(store: store, plan: plan, pool: pool, retry: retry)
        }
    }

    package func openPoint(_ id: PointID) async throws(BlockError) -> any BlockDevice {
        let pool = pool
        return try await blocking { (store) throws(BlockError) in
            let (folder, chain) = try store.chain(of: id)
            var devices: [any BlockDevice] = []
            var locks: [ImageLock] = []
            var lengthBytes: UInt64 = 0
            for manifest in chain {
                let path = "\(folder)/\(manifest.image.file)"
                locks.append(try ImageLock(path: path, use: .reading))
                let device = try Qcow2Device.open(
                    file: store.files.open(path, .readOnly), readOnly: true,
                    backing: devices.last, pool: pool)
                devices.append(device)
                lengthBytes = manifest.volume.lengthBytes
            }
            guard let top = devices.last, top.lengthBytes >= lengthBytes else {
                throw BlockError(
                    .corrupt, "open the point", on: "\(store.root): \(id)",
                    detail: "the image is shorter than the volume")
            }
            return ExactLengthDevice(
                top, below: devices.dropLast(), locks: locks, lengthBytes: lengthBytes)
        }
    }

    package func readContent(
        of id: PointID, _ body: @escaping @Sendable (ContentPiece) throws(BlockError) -> Void
    ) async throws(BlockError) {
        try await blocking { (store) throws(BlockError) in
            let (folder, chain) = try store.chain(of: id)
            let content = try store.content(of: chain, in: folder)
            while let piece = try content.next() { try body(piece) }
        }
    }

    package func verify(
        _ id: PointID, subset: VerifySubset,
        progress: @escaping @Sendable (_ doneBytes: UInt64, _ totalBytes: UInt64) async -> Void
    ) async throws(BlockError) -> VerifyReport {
        let (found, target) = try await blocking { (store) throws(BlockError) in
            try DirectoryVerification.inspect(id, in: store)
        }
        guard let target else { return found }
        var report = found
        do throws(BlockError) {
            let device = try await openPoint(id)
            let verifier = try await blocking { [pool] (store) throws(BlockError) in
                let extents = target.manifest.extents
                return try PointVerifier(
                    device: device,
                    openTable: { () throws(BlockError) in
                        try store.table(of: target.manifest, in: target.folder)
                    },
                    totalBytes: extents.dataBytes + extents.zeroBytes, subset: subset, pool: pool,
                    progress: progress)
            }
            try await verifier.run(&report)
            try await device.close()
        } catch {
            guard DirectoryVerification.isDamage(error) else { throw error }
            report.note(error)
        }
        return report
    }

    @discardableResult
    package func sweep() async throws(BlockError) -> [String] {
        try await blocking { (store) throws(BlockError) in try DirectorySweep(store: store).run() }
    }

    package func putCatalogCopy(
        _ bytes: [UInt8], named name: String
    ) async throws(BlockError) {
        try await blocking { (store) throws(BlockError) in
            try DirectoryCatalogCopies(root: store.root).put(bytes, named: name)
        }
    }

    package func catalogCopies() async throws(BlockError) -> [String] {
        try await blocking { (store) throws(BlockError) in
            try DirectoryCatalogCopies(root: store.root).names()
        }
    }

    package func catalogCopy(named name: String) async throws(BlockError) -> [UInt8] {
        try await blocking { (store) throws(BlockError) in
            try DirectoryCatalogCopies(root: store.root).read(name)
        }
    }

    package func freeBytes() async throws(BlockError) -> UInt64 {
        try await blocking { (store) throws(BlockError) in
            try store.files.freeBytes(at: store.root)
        }
    }

    /// Runs `body` on a thread that may block, after a look whether the repository is there.
    func blocking<T: Sendable>(
        _ body: @escaping @Sendable (DirectoryStore) throws(BlockError) -> T
    ) async throws(BlockError) -> T {
        let store = store
        return try await pool.run { () throws(BlockError) in
            try store.checkReachable()
            return try body(store)
        }
    }
}
