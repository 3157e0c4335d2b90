package import BlockCore
import Catalog
import Synchronization

// Something happens to several volumes at one instant, or to none of them: a mirror's pivot, a
// snapshot, the end of a mirror without a pivot.
//
//   1  all volumes are held, in the order of their ids, within a deadline: no write is in flight
//   2  each is *settled*: what its new images lack is copied, they are flushed and looked at
//   3  one transaction: the new nodes, the bitmaps, the emptied logs
//   4  memory follows: bitmaps, images
//   5  the volumes are released, and the held writes go on, into the new images
//   6  the old images are closed when the last read of them has ended (`RetiredImages`)
//
// Up to the commit nothing has changed, and whatever fails or passes the deadline releases all
// unchanged. A crash leaves each volume with the images that it had before 3 or with those after;
// both hold all that had been acknowledged, the new ones durably, since writes are held from 1 on.

/// What is to happen to one volume at the instant.
package struct InstantChange: Sendable {
    /// Called with the volume held; has until then. Returns the images that the volume is to have,
    /// which read as it does and are durable; nil if it keeps those that it has.
    package typealias Settle =
        @Sendable (ContinuousClock.Instant) async throws(BlockError) -> ImageChain?

    package var volume: Volume
    /// Whether a new top image was made by the agent, and goes with its volume.
    package var ownsTop: Bool
    /// What nobody else may be doing at the same time; nil if the images stay.
    var chainUse: String?
    var settle: Settle
    var change: @Sendable (inout BitmapTable, CatalogTransaction) throws(CatalogError) -> Void
    /// On the catalog's thread, after the commit and with the volume held.
    var didCommit: @Sendable (Volume) -> Void

    init(
        volume: Volume, ownsTop: Bool = false, chainUse: String? = nil,
        settle: @escaping Settle = { (_) throws(BlockError) in nil },
        change:
            @escaping @Sendable (inout BitmapTable, CatalogTransaction) throws(CatalogError) ->
            Void = { (_, _) throws(CatalogError) in },
        didCommit: @escaping @Sendable (Volume) -> Void = { _ in }
    ) {
        self.volume = volume
        self.ownsTop = ownsTop
        self.chainUse = chainUse
        self.settle = settle
        self.change = change
        self.didCommit = didCommit
    }

    /// The change with new images as well, which `chainUse` says what for.
    package func switchingImages(for chainUse: String, ownsTop: Bool) -> InstantChange {
        var change = self
        change.chainUse = chainUse
        change.ownsTop = ownsTop
        return change
    }

    /// Makes all `changes`, each of another volume, at one instant, or none. What is returned is to
    /// be closed.
    @discardableResult
    package static func make(
        _ changes: [InstantChange], deadline: Duration = .seconds(10)
    ) async throws(BlockError) -> [RetiredImages] {
        guard let queue = changes.first?.volume.queue else { return [] }
        let claimed = try claimChains(changes)
        do throws(BlockError) {
            for change in changes { try await change.volume.persistAhead() }
            let end = ContinuousClock.now + deadline
            let holds = try await Volume.hold(changes.map(\.volume), until: end, to: "change")
            defer { for (volume, hold) in holds { volume.locks.release(hold) } }
            let settled = try await settleAll(changes, until: end)
            let retired = try await queue.run { (catalog) throws(BlockError) in
                guard ContinuousClock.now < end else {
                    throw BlockError(
                        .busy, "change", on: changes[0].volume.name,
                        detail: "the catalog was not free before the deadline; try again")
                }
                return try commit(settled, to: catalog)
            }
            return retired
        } catch {
            for volume in claimed { volume.releaseChain() }
            throw error
        }
    }

    private static func claimChains(
        _ changes: [InstantChange]
    ) throws(BlockError) -> [Volume] {
        var claimed: [Volume] = []
        for change in changes {
            guard let use = change.chainUse else { continue }
            do throws(BlockError) { try change.volume.claimChain(for: use) } catch {
                for volume in claimed { volume.releaseChain() }
                throw error
            }
            claimed.append(change.volume)
        }
        return claimed
    }

    private struct Settled: Sendable {
        let change: InstantChange
        let images: ImageChain?
        /// How its top looks, durably.
        let look: ImageFingerprint?
    }

    private static func settleAll(
        _ changes: [InstantChange], until end: ContinuousClock.Instant
    ) async throws(BlockError) -> [Settled] {
        let results = await withTaskGroup(of: (Int, Result<Settled, BlockError>).self) { group in
            for (index, change) in changes.enumerated() {
                group.addTask {
                    do throws(BlockError) {
                        return (index, .success(try await change.settled(until: end)))
                    } catch {
                        return (index, .failure(error))
                    }
                }
            }
            return await group.reduce(into: []) { $0.append($1) }
        }
        var settled: [Settled] = []
        for (_, result) in results.sorted(by: { $0.0 < $1.0 }) { settled.append(try result.get()) }
        return settled
    }

    private func settled(until end: ContinuousClock.Instant) async throws(BlockError) -> Settled {
        guard let images = try await settle(end) else {
            return Settled(change: self, images: nil, look: nil)
        }
        guard chainUse != nil else { preconditionFailure("the images are nobody's to change") }
        guard !images.top.isReadOnly, images.top.lengthBytes >= volume.lengthBytes else {
            throw BlockError(
                .invalid, "change the images", on: volume.name,
                detail: "\(images.nodes[0].path) is read-only or shorter than the volume")
        }
        let look = try await IOPool.guest.run { () throws(BlockError) in
            try images.flushTimes()
            return try images.lookAtTop()
        }
        return Settled(change: self, images: images, look: look)
    }

    /// Steps 3 and 4, on the catalog's thread.
    private static func commit(
        _ settled: [Settled], to catalog: Catalog
    ) throws(BlockError) -> [RetiredImages] {
        var tables = settled.map { $0.change.volume.bitmaps.withLock { $0 } }
        let taken = tables.flatMap { $0.takeDirtyChunks() }
        do throws(CatalogError) {
            try catalog.write { (transaction) throws(CatalogError) in
                for chunks in taken {
                    try transaction.putChunks(chunks.chunks, ofBitmap: chunks.bitmapID)
                }
                for (index, one) in settled.enumerated() {
                    let volume = one.change.volume
                    try transaction.clearRegions(ofVolume: volume.id)
                    try one.change.change(&tables[index], transaction)
                    guard let images = one.images, let look = one.look else { continue }
                    try transaction.replaceNodes(
                        of: volume, by: images, look, ownsTop: one.change.ownsTop)
                }
            }
        } catch {
            for chunks in taken { chunks.giveBack() }
            for one in settled { one.change.volume.log.didClear() }
            throw BlockError(catalog: error, "change the volume")
        }
        return zip(settled, tables).compactMap { one, table in
            one.change.volume.adopt(table, one.images, one.change.didCommit)
        }
    }
}

extension Volume {
    /// Memory follows the catalog: on its thread, with the volume held.
    fileprivate func adopt(
        _ table: BitmapTable, _ newImages: ImageChain?, _ didCommit: (Volume) -> Void
    ) -> RetiredImages? {
        bitmaps.withLock { $0 = table }
        duties.recording = table.recording
        log.didClear()
        didCommit(self)
        guard let newImages else { return nil }
        let old = chain
        images.replace(with: newImages)
        // A top that has become a backing is written no more.
        for node in newImages.nodes.dropFirst() where node.device === old.top {
            node.lock?.stopWriting()
            node.dataLock?.stopWriting()
        }
        return RetiredImages(volume: self, old: old, new: newImages)
    }

    /// Holds all `volumes`, in the order of their ids so that two groups cannot wait for each other.
    static func hold(
        _ volumes: [Volume], until deadline: ContinuousClock.Instant, to operation: String
    ) async throws(BlockError) -> [(Volume, RangeLock.Hold)] {
        var holds: [(Volume, RangeLock.Hold)] = []
        for volume in volumes.sorted(by: { $0.id < $1.id }) {
            let rest =
                Mutant.freezeWithoutDeadline.isActive
                ? .seconds(3600) : deadline - ContinuousClock.now
            guard let hold = await volume.locks.acquire(allBytes, within: rest) else {
                for (held, hold) in holds { held.locks.release(hold) }
                throw BlockError(
                    .busy, operation, on: volume.name,
                    detail: "writes in flight did not finish before the deadline; try again")
            }
            holds.append((volume, hold))
        }
        return holds
    }

    /// Keeps others from changing the images until `releaseChain`.
    func claimChain(for use: String) throws(BlockError) {
        let user = chainUser.withLock { user in
            defer { user = user ?? use }
            return user
        }
        guard let user else { return }
        throw BlockError(
            .busy, "change the images", on: name,
            detail: "\(user) is under way: wait for it")
    }

    func releaseChain() { chainUser.withLock { $0 = nil } }
}

extension CatalogTransaction {
    /// Records that a volume has other images from now on.
    fileprivate func replaceNodes(
        of volume: Volume, by images: ImageChain, _ look: ImageFingerprint, ownsTop: Bool
    ) throws(CatalogError) {
        let known = try nodes(ofVolume: volume.id)
        // A commit leaves a part of the chain, with the point at its end.
        let isPart = images.nodes.allSatisfy { node in known.contains { $0.path == node.path } }
        let isPinned = try pins().contains { $0.volumeID == volume.id }
        guard isPart || !isPinned else {
            throw CatalogError(
                .busy, "change the images of \(volume.name)", on: "catalog",
                detail: "it still depends on a restore point: stream it first")
        }
        let nodes = images.nodes.enumerated().map { position, node in
            node.record(
                isOwned: position == 0 && ownsTop
                    || known.contains { $0.path == node.path && $0.isOwned },
                look: position == 0 ? look : nil)
        }
        try setNodes(nodes, ofVolume: volume.id)
    }
}

/// The images that a volume no longer has, and which reads that began before may still use.
package struct RetiredImages: Sendable {
    package let volume: Volume
    private let gone: [ImageNode]

    fileprivate init(volume: Volume, old: ImageChain, new: ImageChain) {
        self.volume = volume
        let kept = new.nodes.map { ObjectIdentifier($0.device) }
        gone = old.nodes.filter { !kept.contains(ObjectIdentifier($0.device)) }
    }

    /// Waits for those reads, and closes the images that are in the new chain no more. Until it
    /// returns the images of the volume are not to be changed again.
    package func close() async {
        await volume.images.drain()
        for node in gone {
            // All that they held is in the new ones: there is nothing to lose.
            try? await node.device.close()
            node.unlock()
        }
        volume.releaseChain()
    }
}
