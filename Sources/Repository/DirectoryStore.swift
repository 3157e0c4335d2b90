import BlockCore

/// The files of a directory repository, by calls that may block.
struct DirectoryStore: Sendable {
    /// The repository's folder, without a slash at the end.
    let root: String
    let details: RepositoryDescription
    let files: any FileSystem

    /// What lies in a folder under one point's id.
    private struct Files {
        var hasManifest = false
        var hasData = false
        var hasWriter = false
    }

    /// Throws unless the repository itself is there: an unmounted file system leaves an empty
    /// folder, which must not be taken for a repository without points.
    func checkReachable() throws(BlockError) {
        let found = try Self.describe(root, files)
        guard found.uuid == details.uuid else {
            throw BlockError(
                .notFound, "reach the repository", on: root,
                detail: "another repository, \(found.uuid), is there now; "
                    + "\(details.uuid) is expected")
        }
    }

    /// Reads the description in `root`.
    static func describe(
        _ root: String, _ files: any FileSystem
    ) throws(BlockError) -> RepositoryDescription {
        let path = "\(root)/\(RepositoryDescription.fileName)"
        do {
            let bytes = try files.readFile(
                path, limitBytes: RepositoryDescription.lengthBytesMax)
            return try RepositoryDescription(decoding: bytes, place: root)
        } catch  where error.kind == .notFound {
            throw BlockError(
                .notFound, "open the repository", on: root,
                detail: "there is no \(RepositoryDescription.fileName): mount its file system, "
                    + "or make a repository with `tidemark repo init`")
        }
    }

    /// The folders that can hold points, by path.
    func folders() throws(BlockError) -> [String] {
        try files.names(in: root).filter(VolumeFolder.isOurs).map { "\(root)/\($0)" }
    }

    /// The names in `folder`; none if it is no folder.
    func names(in folder: String) throws(BlockError) -> [String] {
        do {
            return try files.names(in: folder)
        } catch  where error.kind == .notFound {
            return []
        }
    }

    /// The folder that holds the manifest of `id`; nil if none does.
    func folder(of id: PointID) throws(BlockError) -> String? {
        for folder in try folders() {
            if try files.exists("\(folder)/\(id).json") { return folder }
        }
        return nil
    }

    /// The folder in which `plan`'s volume has its points, or is to have them.
    func folder(for plan: PointPlan) throws(BlockError) -> String {
        if let parent = plan.parent {
            guard let folder = try folder(of: parent.point) else { throw missing(parent.point) }
            return folder
        }
        let uuid = plan.volumeUUID
        let usual = VolumeFolder.name(volume: plan.volumeName, uuid: uuid)
        let fallback = VolumeFolder.fallbackName(volume: plan.volumeName, uuid: uuid)
        // A renamed volume keeps its folder.
        let suffixes = [".\(uuid.prefix(8))", ".\(uuid)"]
        for folder in try folders() where suffixes.contains(where: folder.hasSuffix) {
            if try owner(of: folder) == uuid { return folder }
        }
        let isFree = try owner(of: "\(root)/\(usual)") == nil
        return "\(root)/\(isFree ? usual : fallback)"
    }

    /// The uuid of the volume whose points are in `folder`; nil if no manifest there tells.
    private func owner(of folder: String) throws(BlockError) -> String? {
        for name in try names(in: folder) {
            guard case .manifest(let id) = PointFileName(name) else { continue }
            do {
                return try manifest(id, in: folder).volume.uuid
            } catch  where error.kind == .corrupt || error.kind == .unsupported {
                continue
            }
        }
        return nil
    }

    /// Reads and checks the manifest of `id`.
    func manifest(_ id: PointID, in folder: String) throws(BlockError) -> Manifest {
        let path = "\(folder)/\(id).json"
        let bytes = try files.readFile(path, limitBytes: ManifestCodec.lengthBytesMax)
        let manifest = try ManifestCodec.decode(bytes, place: path)
        guard manifest.point == id else {
            throw BlockError(
                .corrupt, "read the manifest", on: path,
                detail: "it is the manifest of \(manifest.point)")
        }
        return manifest
    }

    /// The error for a point that should be here and is not.
    func missing(_ id: PointID, neededBy child: PointID? = nil) -> BlockError {
        let need = child.map { ", which \($0) depends on," } ?? ""
        return BlockError(
            .notFound, "find the point", on: root,
            detail: "the point \(id)\(need) is not in this repository")
    }

    /// The chain of `id`, the full first, and the folder that it is in.
    func chain(of id: PointID) throws(BlockError) -> (folder: String, manifests: [Manifest]) {
        guard let folder = try folder(of: id) else { throw missing(id) }
        var manifests = [try manifest(id, in: folder)]
        while let child = manifests.last, let parent = child.parent {
            guard try files.exists("\(folder)/\(parent.point).json") else {
                throw missing(parent.point, neededBy: child.point)
            }
            let found = try manifest(parent.point, in: folder)
            if let mismatch = bindingFault(of: child, to: found) { throw mismatch }
            manifests.append(found)
        }
        return (folder, manifests.reversed())
    }

    /// The error if `parent` is not what `child` was made from.
    func bindingFault(of child: Manifest, to parent: Manifest) -> BlockError? {
        let detail: String
        if parent.contentDigest != child.parent?.contentDigest {
            detail = "its content is not what \(child.point) was made from"
        } else if parent.volume.uuid != child.volume.uuid {
            detail = "it is of another volume than \(child.point)"
        } else if parent.digest != child.digest {
            detail = "it is digested in another way than \(child.point)"
        } else if child.level == .differential, parent.level != .full {
            detail = "it is no full, and \(child.point) is a differential"
        } else {
            return nil
        }
        return BlockError(.corrupt, "use the point", on: "\(root): \(parent.point)", detail: detail)
    }

    /// The tables of `chain` merged.
    func content(
        of chain: [Manifest], in folder: String
    ) throws(BlockError) -> PointContent {
        var readers: [DigestTableReader] = []
        for manifest in chain { readers.append(try table(of: manifest, in: folder)) }
        return try PointContent(readers)
    }

    /// The table of `manifest`'s point, held against the manifest.
    func table(of manifest: Manifest, in folder: String) throws(BlockError) -> DigestTableReader {
        let path = "\(folder)/\(manifest.extents.file)"
        let reader = try DigestTableReader(
            path: path, expected: manifest.extents, files: files)
        let header = reader.header
        guard header.algorithm == manifest.digest.algorithm,
            header.gridBytes == manifest.digest.gridBytes,
            header.volumeBytes == manifest.volume.lengthBytes,
            header.recordCount == manifest.extents.recordCount
        else {
            throw BlockError(
                .corrupt, "read the digest table", on: path,
                detail: "its header is not what the manifest says")
        }
        return reader
    }

    /// Every point in every folder, oldest first, with what keeps it from being restored.
    func points() throws(BlockError) -> [PointSummary] {
        var summaries: [PointSummary] = []
        for folder in try folders() {
            var inFolder: [PointSummary] = []
            for (id, files) in try files(in: folder) {
                if let summary = try summary(of: id, files, folder) { inFolder.append(summary) }
            }
            inFolder.sort { $0.id < $1.id }
            markBrokenChains(&inFolder)
            summaries += inFolder
        }
        return summaries.sorted { $0.id < $1.id }
    }

    private func files(in folder: String) throws(BlockError) -> [PointID: Files] {
        var files: [PointID: Files] = [:]
        for name in try names(in: folder) {
            switch PointFileName(name) {
            case .manifest(let id): files[id, default: Files()].hasManifest = true
            case .image(let id), .digests(let id): files[id, default: Files()].hasData = true
            case .writerLock(let id): files[id, default: Files()].hasWriter = true
            case .temporary, nil: break
            }
        }
        return files
    }

    private func summary(
        of id: PointID, _ files: Files, _ folder: String
    ) throws(BlockError) -> PointSummary? {
        var summary = PointSummary(id: id, folder: folder, manifest: nil, problem: nil)
        guard files.hasManifest else {
            // What a writer is at work on, or left, is no point; its image alone is none either,
            // but somebody may have lost the manifest.
            guard files.hasData, !files.hasWriter else { return nil }
            summary.problem = BlockError(
                .corrupt, "read the manifest", on: "\(folder)/\(id).json",
                detail: "there are data of this point, but no manifest")
            return summary
        }
        do {
            let manifest = try manifest(id, in: folder)
            summary.manifest = manifest
            for name in [manifest.image.file, manifest.extents.file] {
                if try self.files.exists("\(folder)/\(name)") { continue }
                summary.problem = BlockError(
                    .corrupt, "use the point", on: "\(folder)/\(name)",
                    detail: "the file is missing"
                )
            }
        } catch  where [.corrupt, .unsupported, .io, .readOnly].contains(error.kind) {
            summary.problem = error
        } catch  where error.kind == .notFound {
            return nil
        }
        return summary
    }

    /// Marks the points whose chain has a gap or another fault below them. Ids ascend from parent
    /// to child, so one pass in their order is enough.
    private func markBrokenChains(_ summaries: inout [PointSummary]) {
        var seen: [PointID: PointSummary] = [:]
        for index in summaries.indices {
            let summary = summaries[index]
            if let child = summary.manifest, let parent = child.parent, summary.problem == nil {
                let below = seen[parent.point]
                if let problem = below?.problem {
                    summaries[index].problem = problem
                } else if let manifest = below?.manifest {
                    summaries[index].problem = bindingFault(of: child, to: manifest)
                } else {
                    summaries[index].problem = missing(parent.point, neededBy: child.point)
                }
            }
            seen[summary.id] = summaries[index]
        }
    }
}
