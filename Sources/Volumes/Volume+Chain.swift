package import BlockCore
import Catalog
import DriverNBD
import DriverQcow2

// What jobs do to images below the top of a volume, and how images leave a chain, while guests use
// the volume. Its content never changes by it, so no write is held for it.
//
// *Writing an image below the top.* The catalog says so first (`written`): until the end nobody can
// know how the image is going to look, only that its last change is not later than the agent's last
// heartbeat. Then its lock becomes one for writing, which fails while anybody else has the image
// open; then a device that can write takes the place of the one that could not, whose tables would
// grow stale. In the end it is durable and gives back what it had reserved, the lock is for reading
// again, and the catalog has its look.
//
// *Dropping images* that no other image needs any more, since the one above them or the one below
// has what they held:
//
//   what stays is durable · a quiet instant · catalog: they may be gone (`leaving`) · one write
//   within a sector names the new backing in the header of the image above · catalog: the chain that
//   is left · the image above reads through to the new backing · what uses the old images is waited
//   for, they are closed
//
// A crash before the header's write leaves the volume as it was; one behind it leaves a chain that
// is newer than the catalog, which the open accepts because of the third step.
//
// The quiet instant is for reads and writes that found a cluster unallocated before it was copied,
// and would come to the backing only after the change: all that began before it have ended then.

extension Volume {
    /// How often the quiet instant is tried: in between, writes go on.
    private static let quietTries = 30
    private static let quietLimit = Duration.seconds(2)

    /// The images of its chain, from the top down.
    package var imagePaths: [String] { using { $0.nodes.map(\.path) } }

    /// Whether it needs other images than its own.
    package var hasBacking: Bool { using { $0.nodes.count > 1 } }

    /// The position of the image that `name` means: its path, the name by which the image above
    /// knows it, or any other path of the same file.
    package func position(ofImage name: String) -> Int? {
        let nodes = using { $0.nodes }
        if let position = nodes.firstIndex(where: { $0.path == name }) { return position }
        let named = nodes.dropLast().firstIndex {
            ($0.device as? Qcow2Device)?.backingName?.name == name
        }
        if let named { return named + 1 }
        guard !NBDDevice.isURI(name), let identity = HostFile.identity(of: name) else { return nil }
        return nodes.firstIndex {
            !NBDDevice.isURI($0.path) && HostFile.identity(of: $0.path) == identity
        }
    }

    /// The same for a name that may be the volume's own, which is its top.
    package func position(ofNode name: String) -> Int? {
        name == self.name ? 0 : position(ofImage: name)
    }

    /// The chain that begins with the image at `path`, which the volume may have as its own.
    func chain(from path: String) -> ImageChain? {
        let nodes = Array(using { $0.nodes }.drop { $0.path != path })
        guard var base = nodes.first else { return nil }
        base.isWritten = false
        return ImageChain(nodes: [base] + nodes.dropFirst())
    }

    /// Opens the image at `path`, which is claimed and not the top, so that a job can write it.
    package func beginWriting(_ path: String) async throws(BlockError) {
        try await claimChainInTurn(for: "a change of its images")
        defer { releaseChain() }
        try await recordChange(.written, of: [path])
        do throws(BlockError) { try await chain.beginWriting(path) } catch {
            try? await recordChange(nil, of: [path])
            throw error
        }
    }

    /// Ends that: the image is durable, and changes no more.
    package func endWriting(_ path: String) async throws(BlockError) {
        try await claimChainInTurn(for: "a change of its images")
        defer { releaseChain() }
        try await chain.endWriting(path)
        try await recordChange(nil, of: [path])
    }

    /// Makes the image at `path`, which a job writes, at least `lengthBytes` long.
    package func growImage(_ path: String, to lengthBytes: UInt64) async throws(BlockError) {
        guard let node = using({ chain in chain.nodes.first { $0.path == path } }) else {
            throw Self.noImage(path, of: name)
        }
        guard node.device.lengthBytes < lengthBytes else { return }
        try await node.resize(to: lengthBytes)
    }

    /// Takes the images between `upper` and `lower`, or all below `upper`, out of the chain, whose
    /// content is in one of these two. `backingName` is what the header of `upper` is to say, unless
    /// that is the path of `lower`.
    package func dropImages(
        between upper: String, and lower: String?, naming backingName: String? = nil
    ) async throws(BlockError) {
        try await claimChainInTurn(for: "a change of its images")
        defer { releaseChain() }
        let chain = chain
        let nodes = chain.nodes
        guard let position = nodes.firstIndex(where: { $0.path == upper }),
            lower == nil || nodes.dropFirst(position + 1).contains(where: { $0.path == lower })
        else { throw Self.noImage(lower ?? upper, of: name) }
        let end = nodes.firstIndex { $0.path == lower } ?? nodes.count
        let going = nodes[(position + 1)..<end].map(\.path)
        guard !going.isEmpty || backingName != nil else { return }
        guard nodes[position].device is Qcow2Device else {
            throw BlockError(.unsupported, "name another backing file", on: upper)
        }
        let backing = try lower.map { (_) throws(BlockError) in
            try Self.backing(nodes[end], of: nodes[position], naming: backingName)
        }
        try await top.flush()
        if end < nodes.count { try await nodes[end].device.flush() }
        try await passQuietInstant()
        // The top is open for writing already. What was the top once may still have a device that
        // can write; it is locked and recorded as one that is only read.
        let opens = position > 0 && !nodes[position].isWritten
        if opens {
            try await recordChange(.written, of: [upper])
            try await chain.beginWriting(upper)
        }
        do throws(BlockError) {
            try await recordChange(.leaving, of: going)
            let image = chain.nodes[position].device as? Qcow2Device
            try await image?.setBacking(backing)
        } catch {
            if opens { try? await chain.endWriting(upper) }
            throw error
        }
        if opens { try await chain.endWriting(upper) }
        try await recordDrop(of: going)
        await chain.drop(going, below: upper)
    }

    /// Returns when all requests that had begun have ended.
    private func passQuietInstant() async throws(BlockError) {
        for _ in 0..<Self.quietTries {
            guard let hold = await locks.acquire(Self.allBytes, within: Self.quietLimit) else {
                continue
            }
            // Reads count themselves into the images that they use: into the old ones until here.
            images.replace(with: images.current)
            locks.release(hold)
            return await images.drain()
        }
        throw BlockError(
            .busy, "change the images", on: name,
            detail: "writes in flight did not finish within \(Self.quietLimit)")
    }

    /// Throws unless the image `upper` can call the image `lower` so.
    package func checkBackingName(
        _ name: String, of upper: String, for lower: String
    ) throws(BlockError) {
        let nodes = using { $0.nodes }
        guard let above = nodes.first(where: { $0.path == upper }),
            let below = nodes.first(where: { $0.path == lower })
        else { return }
        _ = try Self.backing(below, of: above, naming: name)
    }

    private static func backing(
        _ lower: ImageNode, of upper: ImageNode, naming name: String?
    ) throws(BlockError) -> Qcow2Backing {
        let backing = Qcow2Backing(name: name ?? lower.path, format: lower.format.rawValue)
        guard let name else { return backing }
        // A name that means something else would be another disk at the next start.
        let path = try ImageOpener.resolve(name, from: upper.path)
        guard try ImageOpener.isSame(path, lower) else {
            throw BlockError(
                .invalid, "name the backing file", on: upper.path,
                detail: "'\(name)' does not name \(lower.path)")
        }
        return backing
    }

    private func recordChange(
        _ change: NodeChange?, of paths: [String]
    ) async throws(BlockError) {
        let looks = using { $0.nodes }.reduce(into: [:]) { $0[$1.path] = $1.found.text }
        try await changeNodes { (nodes, _) throws(CatalogError) in
            for index in nodes.indices where paths.contains(nodes[index].path) {
                nodes[index].change = change
                if change == nil { nodes[index].fingerprint = looks[nodes[index].path] }
            }
        }
    }

    /// The chain that is left. The pin of a point that it does not hold any more is nobody's.
    private func recordDrop(of paths: [String]) async throws(BlockError) {
        let nodes = using { $0.nodes }.filter { !paths.contains($0.path) }
        try await changeNodes { [id] (records, transaction) throws(CatalogError) in
            records.removeAll { paths.contains($0.path) }
            for index in records.indices.dropFirst() {
                let node = nodes.first { $0.path == records[index].path }
                records[index].change = node?.isWritten == true ? .written : nil
                if let look = node?.found { records[index].fingerprint = look.text }
            }
            guard records.count == 1 else { return }
            for pin in try transaction.pins() where pin.volumeID == id {
                try transaction.givePin(pin.id, toVolume: nil)
            }
        }
    }

    private func changeNodes(
        _ change:
            @escaping @Sendable (inout [NodeRecord], CatalogTransaction) throws(CatalogError) ->
            Void
    ) async throws(BlockError) {
        try await queue.run { [id] (catalog) throws(BlockError) in
            try catalog.writing { (transaction) throws(CatalogError) in
                var nodes = try transaction.nodes(ofVolume: id)
                try change(&nodes, transaction)
                try transaction.setNodes(nodes, ofVolume: id)
            }
        }
    }

    static func noImage(_ path: String, of volume: String) -> BlockError {
        BlockError(
            .invalid, "change the images", on: volume,
            detail: "\(path) is not in this backing file chain")
    }
}
