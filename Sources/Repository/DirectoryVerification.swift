import BlockCore
import DriverQcow2

/// The part of a verification that reads no data: manifests, chain, image header, tables.
enum DirectoryVerification {
    /// The point whose data is to be compared.
    struct Target: Sendable {
        var manifest: Manifest
        var folder: String
    }

    /// Checks what describes `id`. Without a target the data cannot be compared. May block.
    static func inspect(
        _ id: PointID, in store: DirectoryStore
    ) throws(BlockError) -> (VerifyReport, Target?) {
        var report = VerifyReport(point: id)
        // A point that is not there at all is the caller's mistake, not damage.
        guard try store.folder(of: id) != nil else { throw store.missing(id) }
        var chain: [Manifest] = []
        var folder = ""
        try collect(&report) { () throws(BlockError) in
            (folder, chain) = try store.chain(of: id)
        }
        guard let manifest = chain.last else { return (report, nil) }
        try collect(&report) { () throws(BlockError) in
            try checkImage(
                of: manifest, parent: chain.dropLast().last, in: folder, store)
        }
        try collect(&report) { () throws(BlockError) in
            try checkContentDigest(of: chain, in: folder, store)
        }
        return (report, Target(manifest: manifest, folder: folder))
    }

    /// Checks everything of a chain but its data, and throws the first thing that is wrong. Returns
    /// the manifest of `id`. May block.
    static func checkChain(
        of id: PointID, in store: DirectoryStore
    ) throws(BlockError) -> Manifest {
        let (folder, chain) = try store.chain(of: id)
        var parent: Manifest?
        for manifest in chain {
            try checkImage(of: manifest, parent: parent, in: folder, store)
            parent = manifest
        }
        try checkContentDigest(of: chain, in: folder, store)
        return chain[chain.count - 1]
    }

    private static func checkContentDigest(
        of chain: [Manifest], in folder: String, _ store: DirectoryStore
    ) throws(BlockError) {
        let manifest = chain[chain.count - 1]
        let digest = try ContentDigest.of(
            try store.content(of: chain, in: folder), point: manifest.point,
            freeze: manifest.freeze.time, algorithm: manifest.digest.algorithm)
        guard digest == manifest.contentDigest else {
            throw BlockError(
                .corrupt, "verify the chain", on: "\(folder)/\(manifest.point).json",
                detail: "the tables of the chain make the content digest \(digest), the "
                    + "manifest says \(manifest.contentDigest)")
        }
    }

    /// Whether `error` says that what is stored is damaged, and not that it cannot be asked.
    static func isDamage(_ error: BlockError) -> Bool {
        [.corrupt, .notFound, .unsupported, .io].contains(error.kind)
    }

    private static func collect(
        _ report: inout VerifyReport, _ body: () throws(BlockError) -> Void
    ) throws(BlockError) {
        do throws(BlockError) {
            try body()
        } catch {
            guard isDamage(error) else { throw error }
            report.note(error)
        }
    }

    private static func checkImage(
        of manifest: Manifest, parent: Manifest?, in folder: String, _ store: DirectoryStore
    ) throws(BlockError) {
        let path = "\(folder)/\(manifest.image.file)"
        let header = try Qcow2Header(file: store.files.open(path, .readOnly))
        func refuse(_ detail: String) -> BlockError {
            BlockError(.corrupt, "verify the image", on: path, detail: detail)
        }
        guard header.sizeBytes == manifest.image.lengthBytes else {
            throw refuse(
                "its size is \(header.sizeBytes), the manifest says \(manifest.image.lengthBytes)")
        }
        guard header.backing?.name == parent?.image.file else {
            throw refuse(
                "its backing file is \(header.backing?.name ?? "none"), it should be "
                    + (parent?.image.file ?? "none"))
        }
        guard header.backing == nil || header.backing?.format == "qcow2" else {
            throw refuse("the format of its backing file is not said to be qcow2")
        }
    }
}
