package import BlockCore
import DriverNBD

/// What it takes to open a mirror's target again after a restart of the agent.
package struct TargetRecord: Codable, Sendable, Equatable {
    /// The name of a volume; nil if it is an image.
    var volume: String?
    var path: String
    var format: String
    /// Which file it is; nil where that is not known.
    var identity: String?
    /// Whether it is open without what is below it.
    var isPart: Bool
    /// The image of the source that is to be below it, if one is.
    var sourcePath: String?
    var isOwned: Bool
}

extension TargetImage {
    /// What there is to know of it as the target of a mirror of `source`; nil if it cannot be opened
    /// again.
    package func record(for source: Volume) -> TargetRecord? {
        // A commit starts again, and a node is gone with the agent.
        guard committer == nil, lender == nil else { return nil }
        guard let chain, let node = chain.nodes.first else {
            return TargetRecord(
                volume: name, path: name, format: "raw", isPart: false, isOwned: false)
        }
        var sourcePath: String?
        if case .source(let device) = below {
            sourcePath = source.using { $0.nodes.first { $0.device === device }?.path }
        }
        return TargetRecord(
            path: node.path, format: node.format.rawValue,
            identity: HostFile.identity(of: node.path).map { "\($0)" },
            isPart: chain.nodes.count == 1 && node.backing != nil, sourcePath: sourcePath,
            isOwned: isOwned)
    }
}

extension VolumeStore {
    /// Opens the target of a mirror of `source` again, which has to be what it was.
    package func reopenTarget(
        _ record: TargetRecord, for source: Volume
    ) async throws(BlockError) -> TargetImage {
        if let name = record.volume { return try TargetImage(try volume(name), for: source) }
        let path = record.path
        guard
            NBDDevice.isURI(path)
                || HostFile.identity(of: path).map({ "\($0)" }) == record.identity
        else {
            throw BlockError(
                .notFound, "open the mirror's target again", on: path,
                detail: "it is gone, or another file has its name")
        }
        if !NBDDevice.isURI(path) {
            try await checkIsAlone("to be the target of a mirror", paths: [path])
        }
        guard record.isPart else {
            let chain = try await Self.open(path, ImageFormat(rawValue: record.format) ?? .raw)
            return try await checked(
                TargetImage(chain, of: source, isOwned: record.isOwned), source)
        }
        let (chain, named) = try await Self.openPart(path, of: source)
        var below = named
        if let sourcePath = record.sourcePath {
            guard let base = source.using({ $0.nodes.first { $0.path == sourcePath } }) else {
                try? await chain.close()
                throw BlockError(
                    .notFound, "open the mirror's target again", on: path,
                    detail: "\(sourcePath), which is to be below it, is not in the chain of volume "
                        + "\(source.name) any more")
            }
            below = .source(base.device)
        }
        return try await checked(
            TargetImage(chain, of: source, isOwned: record.isOwned, below: below), source)
    }
}
