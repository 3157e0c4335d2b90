import BlockCore
import Catalog
import Glibc

// How an image comes to be that a crash must not leave behind.
//
//   the catalog records the name TEMPORARY, and PATH that the image is to get
//   the image is made at TEMPORARY
//   it gets PATH as a second name, which fails if there is something already
//   the catalog gets the volume that uses PATH
//   TEMPORARY is removed, the record forgotten
//
// TEMPORARY is a name that nothing else has, so that what is found under it was made here; and what
// is found at PATH only if it is the same file. Removing an image goes the other way: the record is
// made in the transaction that forgets the volume, with the file's identity.

/// The images that the agent makes and removes, safe against crashes.
struct NewImage: Sendable {
    let path: String
    private let temporary: String
    private let queue: CatalogQueue

    /// Calls `make` for an image that is to be at `path`, on a thread that may block.
    init(
        at path: String, queue: CatalogQueue,
        _ make: @escaping @Sendable (_ path: String) throws(BlockError) -> Void
    ) async throws(BlockError) {
        self.path = path
        self.queue = queue
        temporary = "\(path).\(UInt64.random(in: 0 ... .max)).tmp"
        guard !HostDirectory.exists(path) else {
            throw .system("create the image", on: path, errno: EEXIST)
        }
        let leftover = LeftoverRecord(path: temporary, finalPath: path)
        try await queue.change { (transaction) throws(CatalogError) in
            try transaction.insertLeftover(leftover)
        }
        do throws(BlockError) {
            try await IOPool.background.run { [temporary] () throws(BlockError) in
                try make(temporary)
                try HostDirectory.link(temporary, to: path)
                try HostDirectory.flush(HostDirectory.parent(of: path))
            }
        } catch {
            try? await withdraw()
            guard error.place == temporary else { throw error }
            // The name that the user knows.
            var failure = error
            failure.place = path
            throw failure
        }
    }

    /// The image is in use under its path.
    func settle() async throws(BlockError) {
        try await IOPool.background.run { [temporary] () throws(BlockError) in
            try HostDirectory.removeFile(temporary)
            // Before the record goes: a power loss must not bring the name back.
            try HostDirectory.flush(HostDirectory.parent(of: temporary))
        }
        try await Self.forget(temporary, queue)
    }

    /// Removes the image, of which no volume was made.
    func withdraw() async throws(BlockError) {
        let leftover = LeftoverRecord(path: temporary, finalPath: path)
        try await Self.remove(leftover, isInUse: false, queue)
    }

    /// What is to be recorded when the volume whose top is `node` is removed with its file; nil if
    /// the agent did not make it, or it is gone.
    static func leftover(of node: NodeRecord) -> LeftoverRecord? {
        guard node.isOwned, let identity = HostFile.identity(of: node.path) else { return nil }
        return LeftoverRecord(path: node.path, fileIdentity: "\(identity)")
    }

    /// Removes the file of a volume that the catalog has just forgotten, together with recording
    /// `leftover`.
    static func remove(
        _ leftover: LeftoverRecord, _ queue: CatalogQueue
    ) async throws(BlockError) {
        try await remove(leftover, isInUse: false, queue)
    }

    /// Removes what a crash left of images, if no volume has come to use it.
    static func sweep(_ queue: CatalogQueue) async throws(BlockError) {
        let (leftovers, used) = try await queue.run { (catalog) throws(BlockError) in
            try catalog.reading { (snapshot) throws(CatalogError) in
                var used: Set<String> = []
                for volume in try snapshot.volumes() {
                    used.formUnion(try snapshot.nodes(ofVolume: volume.id).map(\.path))
                }
                return (try snapshot.leftovers(), used)
            }
        }
        for leftover in leftovers {
            let isInUse = used.contains(leftover.finalPath ?? leftover.path)
            try await remove(leftover, isInUse: isInUse, queue)
        }
    }

    private static func remove(
        _ leftover: LeftoverRecord, isInUse: Bool, _ queue: CatalogQueue
    ) async throws(BlockError) {
        try await IOPool.background.run { () throws(BlockError) in
            let identity = HostFile.identity(of: leftover.path)
            if let final = leftover.finalPath {
                // The first name goes last: it tells what the second one is.
                if !isInUse, let identity, HostFile.identity(of: final) == identity {
                    try HostDirectory.removeFile(final)
                }
                try HostDirectory.removeFile(leftover.path)
            } else if !isInUse, let identity, "\(identity)" == leftover.fileIdentity {
                try HostDirectory.removeFile(leftover.path)
            }
            let folder = HostDirectory.parent(of: leftover.path)
            if HostDirectory.exists(folder) { try HostDirectory.flush(folder) }
        }
        try await forget(leftover.path, queue)
    }

    private static func forget(_ path: String, _ queue: CatalogQueue) async throws(BlockError) {
        try await queue.change { (transaction) throws(CatalogError) in
            try transaction.deleteLeftover(path)
        }
    }
}
