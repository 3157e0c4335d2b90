package import BlockCore
import Catalog
import DriverQcow2

// How a volume comes to depend on nothing. Somebody copies what its backing images hold into its
// own, piece by piece, while guests read and write:
//
//   A piece is stored with its range held, and only where the own image, looked at then, holds
//   nothing: a newer write is never overwritten. Nobody's content changes by it, so no bit is set
//   and nothing is kept for a backup.
//
// At the end the own image must name no backing any more, and neither may the catalog. A crash in
// between leaves an image that is newer than the catalog; so the catalog says first that this may
// be (`isDetaching`):
//
//   flush, catalog: may be detached, header: no backing, catalog: one node and no pin, close the
//   backing images

extension Volume {
    /// The images of its chain, from the top down.
    package var imagePaths: [String] { using { $0.nodes.map(\.path) } }

    /// Whether it needs other images than its own.
    package var hasBacking: Bool { using { $0.nodes.count > 1 } }

    /// The parts of `range` that its own image does not hold and that do not read as zeroes.
    package func unpopulatedRanges(in range: ByteRange) async throws(BlockError) -> [ByteRange] {
        let use = images.begin()
        defer { images.end(use) }
        return try await use.value.top.allExtents(in: range)
            .filter { $0.depth > 0 && !$0.isZero }.map(\.range)
    }

    /// Stores `content`, which its backing images have at `range`, in its own image, where that
    /// still holds nothing. `range` begins and ends on clusters, or at the end. Returns how many
    /// bytes that was.
    package func populate(
        _ range: ByteRange, from content: BufferSlice
    ) async throws(BlockError) -> UInt64 {
        let hold = await locks.acquire(range)
        defer { locks.release(hold) }
        var storedBytes: UInt64 = 0
        let missing =
            Mutant.streamOverNewer.isActive ? [range] : try await unpopulatedRanges(in: range)
        for part in missing {
            try await top.write(
                at: part.offset,
                from: content.slice(
                    Int(part.offset - range.offset), Int(part.lengthBytes)))
            storedBytes += part.lengthBytes
        }
        return storedBytes
    }

    /// Makes image and catalog forget the backing images, all of which is in the image, and closes
    /// them. The pin by which the catalog knows of them is nobody's after that.
    package func forgetBacking(pinID: String) async throws(BlockError) {
        try claimChain(for: "a stream")
        defer { releaseChain() }
        let chain = chain
        guard let image = chain.top as? Qcow2Device else {
            throw BlockError(.unsupported, "detach from its backing", on: name)
        }
        try await image.flush()
        try await queue.run { (catalog) throws(BlockError) in
            try catalog.writing { (transaction) throws(CatalogError) in
                try transaction.detachPin(pinID)
            }
        }
        try await image.forgetBacking()
        try await queue.run { [id] (catalog) throws(BlockError) in
            try catalog.writing { (transaction) throws(CatalogError) in
                let nodes = try transaction.nodes(ofVolume: id)
                try transaction.setNodes(Array(nodes.prefix(1)), ofVolume: id)
                try transaction.givePin(pinID, toVolume: nil)
            }
        }
        await chain.detachBacking()
    }
}
