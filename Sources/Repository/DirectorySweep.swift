import BlockCore

/// Removes what crashed writers left in a directory repository.
///
/// It may run at any time, beside writers of this process and of others, any number of times, and
/// may itself be killed: each run begins anew. What is not named as this format names it stays.
struct DirectorySweep {
    let store: DirectoryStore
    private var files: any FileSystem { store.files }

    init(store: DirectoryStore) { self.store = store }

    /// Sweeps all folders; the paths removed are returned. May block.
    func run() throws(BlockError) -> [String] {
        var removed = try sweepRoot()
        try DirectoryCatalogCopies(root: store.root).sweep(&removed)
        removed += try GroupFolder(store: store).sweep()
        for folder in try store.folders() { try sweep(folder, &removed) }
        return removed
    }

    /// The description is written once, so that a temporary one beside it is left over.
    private func sweepRoot() throws(BlockError) -> [String] {
        let prefix = "\(RepositoryDescription.fileName)."
        var removed: [String] = []
        for name in try files.names(in: store.root) {
            let parts = name.dropFirst(prefix.count).split(separator: ".")
            guard name.hasPrefix(prefix), parts.count == 3, parts[2] == "tmp",
                UInt32(parts[0]) != nil, UInt32(parts[1]) != nil
            else { continue }
            try remove("\(store.root)/\(name)", &removed)
        }
        return removed
    }

    private func sweep(_ folder: String, _ removed: inout [String]) throws(BlockError) {
        var temporaries: [PointID: [String]] = [:]
        for name in try store.names(in: folder) {
            switch PointFileName(name) {
            case .temporary(let id): temporaries[id, default: []].append(name)
            case .writerLock(let id): temporaries[id, default: []] += []
            case .manifest, .image, .digests, nil: continue
            }
        }
        // A second look: a writer's lock is older than its other files, so that the lock of every
        // file seen above is seen now, if it is still there.
        var locks: [PointID: [String]] = [:]
        for name in try store.names(in: folder) {
            if case .writerLock(let id) = PointFileName(name) {
                locks[id, default: []].append("\(folder)/\(name)")
            }
        }
        for (id, names) in temporaries.sorted(by: { $0.key < $1.key }) {
            try sweep(
                id, in: folder, temporaries: names, locks: locks[id, default: []], &removed)
        }
    }

    private func sweep(
        _ id: PointID, in folder: String, temporaries: [String], locks: [String],
        _ removed: inout [String]
    ) throws(BlockError) {
        var held: [HostFile] = []
        for path in locks {
            do throws(BlockError) {
                held.append(try files.lock(path, .readWrite))
            } catch {
                // Its writer lives, has just ended, or cannot be told from one that lives.
                return
            }
        }
        if !held.isEmpty, try !files.exists("\(folder)/\(id).json") {
            for name in [
                DirectoryWriterFiles.imageName(id), DirectoryWriterFiles.digestsName(id),
            ] {
                guard try files.exists("\(folder)/\(name)") else { continue }
                try remove("\(folder)/\(name)", &removed)
            }
        }
        for name in temporaries { try remove("\(folder)/\(name)", &removed) }
        try files.flush(folder)
        for path in locks { try remove(path, &removed) }
    }

    private func remove(_ path: String, _ removed: inout [String]) throws(BlockError) {
        try files.removeFile(path)
        removed.append(path)
    }
}
