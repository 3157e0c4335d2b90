package import BlockCore
import Catalog
import Glibc
import Synchronization

// Several things at one quiet instant, of one volume or of many, and in one transaction of the
// catalog: changes of bitmaps, the starts of backups and mirrors, the ends of mirrors, snapshots,
// other images. Every write of a guest lies wholly before or wholly after all of them, and after a
// crash all or none have happened. Each step sees what those before it have done.
//
//   1  all volumes are held, in the order of their ids, within a deadline: no write is in flight
//   2  what is to have other images is *settled*: what those lack is copied, they are flushed and
//      looked at
//   3  one transaction: the chunks of all bitmaps, the emptied logs, what the steps do, the nodes
//   4  memory follows: bitmaps, what writes have to do, images
//   5  the volumes are released, and the held writes go on
//   6  the old images are closed when the last read of them has ended (`RetiredImages`)
//
// Up to the commit nothing has changed, and whatever fails or passes the deadline releases all
// unchanged. A crash leaves each volume with the images that it had before 3 or with those after;
// both hold all that had been acknowledged, the new ones durably, since writes are held from 1 on.
// What has to be prepared and undone around it is `QuietAction`'s matter.

/// What has happened at a quiet instant.
package struct QuietOutcome: Sendable {
    package let instant: FreezeInstant
    /// What was frozen, in the order of the steps.
    package let frozen: [FrozenVolume]
    /// The images that volumes no longer have; they are to be closed.
    package let retired: [RetiredImages]

    /// What was frozen of those volumes.
    package func frozen(of volumes: [Volume]) -> [FrozenVolume] {
        frozen.filter { one in volumes.contains { $0 === one.bitmap.volume } }
    }

    /// What that volume no longer has.
    package func retired(of volume: Volume) -> [RetiredImages] {
        retired.filter { $0.volume === volume }
    }
}

/// Takes steps together.
package enum QuietTransaction {
    /// What a try takes at least, if another follows.
    private static let tryDuration = Duration.milliseconds(100)

    /// Takes all steps, or none and throws why not. What was in the way for a moment, a write that
    /// does not end or a target that is slow, is tried again, with `betweenTries` in between, which
    /// guests write during.
    @discardableResult
    package static func run(
        _ steps: [QuietStep], deadline: Duration = .seconds(10), tries: Int = 1,
        betweenTries: @Sendable () async throws(BlockError) -> Void = { () throws(BlockError) in }
    ) async throws(BlockError) -> QuietOutcome {
        var left = tries
        while true {
            var isFinal = false
            let begun = ContinuousClock.now
            do throws(BlockError) {
                return try await attempt(steps, deadline, &isFinal)
            } catch {
                left -= 1
                guard left > 0, !isFinal, error.kind == .busy || error.kind == .timedOut else {
                    throw error
                }
            }
            try await betweenTries()
            // What is in the way at once is given some time to go.
            if ContinuousClock.now - begun < Self.tryDuration {
                try? await Task.sleep(for: Self.tryDuration)
            }
        }
    }

    /// `isFinal` becomes true if a step was refused.
    private static func attempt(
        _ steps: [QuietStep], _ deadline: Duration, _ isFinal: inout Bool
    ) async throws(BlockError) -> QuietOutcome {
        let volumes = volumes(of: steps)
        let claimed = try claimChains(steps)
        do throws(BlockError) {
            for volume in volumes {
                try await volume.persistAhead()
                if Mutant.flushBeforeFreeze.isActive { try await volume.flush() }
            }
            let started = ContinuousClock.now
            let end = started + deadline
            let holds =
                Mutant.freezeWithoutDrain.isActive
                ? []
                : try await Volume.hold(
                    volumes, until: end, to: steps.first?.operation ?? "hold all writes")
            defer { for (volume, hold) in holds { volume.locks.release(hold) } }
            let nanoseconds = currentNanoseconds()
            let settled = try await settle(steps, until: end)
            var taken = Taken.done([], [])
            if let queue = volumes.first?.queue {
                taken = try await queue.run { (catalog) throws(BlockError) -> Taken in
                    guard ContinuousClock.now < end || Mutant.freezeWithoutDeadline.isActive else {
                        throw BlockError(
                            .busy, steps[0].operation, on: volumes[0].name,
                            detail: "the catalog was not free before the deadline; try again")
                    }
                    return try take(settled, of: volumes, in: catalog)
                }
            }
            switch taken {
            case .refused(let error):
                isFinal = true
                throw error
            case .done(let frozen, let retired):
                return QuietOutcome(
                    instant: FreezeInstant(
                        nanoseconds: nanoseconds, heldFor: ContinuousClock.now - started),
                    frozen: frozen, retired: retired)
            }
        } catch {
            for volume in claimed { volume.releaseChain() }
            throw error
        }
    }

    /// In the order of their ids, so that two transactions cannot wait for each other.
    private static func volumes(of steps: [QuietStep]) -> [Volume] {
        var found: [Volume] = []
        for step in steps where !found.contains(where: { $0 === step.volume }) {
            found.append(step.volume)
        }
        return found.sorted { $0.id < $1.id }
    }

    private static func claimChains(_ steps: [QuietStep]) throws(BlockError) -> [Volume] {
        var claimed: [Volume] = []
        for step in steps {
            guard let images = step.newImages else { continue }
            do throws(BlockError) { try step.volume.claimChain(for: images.use) } catch {
                for volume in claimed { volume.releaseChain() }
                throw error
            }
            claimed.append(step.volume)
        }
        return claimed
    }

    /// A step, and the images that its volume is to have.
    private struct Settled: Sendable {
        let step: QuietStep
        var images: ImageChain?
        /// How their top looks, durably.
        var look: ImageFingerprint?
    }

    private static func settle(
        _ steps: [QuietStep], until end: ContinuousClock.Instant
    ) async throws(BlockError) -> [Settled] {
        let results = await withTaskGroup(of: (Int, Result<Settled, BlockError>).self) { group in
            for (index, step) in steps.enumerated() {
                group.addTask {
                    do throws(BlockError) {
                        return (index, .success(try await settle(step, until: end)))
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

    private static func settle(
        _ step: QuietStep, until end: ContinuousClock.Instant
    ) async throws(BlockError) -> Settled {
        guard let images = try await step.settle?(end) else { return Settled(step: step) }
        precondition(step.newImages != nil, "the images are nobody's to change")
        guard !images.top.isReadOnly, images.top.lengthBytes >= step.volume.lengthBytes else {
            throw BlockError(
                .invalid, "change the images", on: step.volume.name,
                detail: "\(images.nodes[0].path) is read-only or shorter than the volume")
        }
        let look = try await IOPool.guest.run { () throws(BlockError) in
            try images.flushTimes()
            return try images.lookAtTop()
        }
        return Settled(step: step, images: images, look: look)
    }

    private enum Taken: Sendable {
        case done([FrozenVolume], [RetiredImages])
        /// Not for reasons of the moment.
        case refused(BlockError)
    }

    /// On the catalog's thread with every volume held.
    private static func take(
        _ settled: [Settled], of volumes: [Volume], in catalog: Catalog
    ) throws(BlockError) -> Taken {
        var tables = QuietTables(of: volumes)
        let skipsChunks =
            Mutant.freezeWithoutChunks.isActive
            || settled.contains { $0.step.mutant?.isActive == true }
        let taken = skipsChunks ? [] : tables.takeDirtyChunks()
        var refusal: BlockError?
        do throws(CatalogError) {
            try catalog.write { (transaction) throws(CatalogError) in
                for chunks in taken {
                    try transaction.putChunks(chunks.chunks, ofBitmap: chunks.bitmapID)
                }
                for volume in volumes { try transaction.clearRegions(ofVolume: volume.id) }
                for one in settled {
                    do {
                        try take(one, &tables, in: transaction)
                    } catch let error as CatalogError {
                        throw error
                    } catch {
                        refusal = error as? BlockError
                        throw CatalogError(
                            .other, one.step.operation, on: one.step.volume.name,
                            detail: "\(error)")
                    }
                }
            }
        } catch {
            for chunks in taken { chunks.giveBack() }
            // A commit that failed may yet show after a crash: its regions are announced again.
            for volume in volumes { volume.log.didClear() }
            if let refusal { return .refused(refusal) }
            throw BlockError(catalog: error, settled[0].step.operation)
        }
        return follow(settled, of: volumes, tables)
    }

    private static func take(
        _ settled: Settled, _ tables: inout QuietTables, in transaction: CatalogTransaction
    ) throws {
        let step = settled.step
        try step.change(&tables, transaction)
        guard let images = settled.images, let look = settled.look, let new = step.newImages
        else { return }
        let known = try transaction.nodes(ofVolume: step.volume.id)
        // A commit leaves a part of the chain, with the point at its end.
        let isPart = images.nodes.allSatisfy { node in known.contains { $0.path == node.path } }
        let isPinned = try transaction.pins().contains { $0.volumeID == step.volume.id }
        guard isPart || !isPinned else {
            throw BlockError(
                .busy, "change the images", on: step.volume.name,
                detail: "it still depends on a restore point: stream it first")
        }
        try transaction.replaceNodes(of: step.volume, by: images, look, ownsTop: new.ownsTop)
    }

    /// After the commit, with the volumes held: memory follows.
    private static func follow(
        _ settled: [Settled], of volumes: [Volume], _ tables: QuietTables
    ) -> Taken {
        for volume in volumes {
            let table = tables[volume]
            volume.bitmaps.withLock { $0 = table }
            volume.duties.recording = table.recording
            let inUse = volume.log.manyInUse()
            volume.log.didClear()
            volume.log.announceSoon(inUse)
        }
        var frozen: [FrozenVolume] = []
        var retired: [RetiredImages] = []
        for one in settled {
            if let volume = one.step.follow(tables[one.step.volume]) { frozen.append(volume) }
            if let images = one.images { retired.append(one.step.volume.adopt(images)) }
        }
        return .done(frozen, retired)
    }

    private static func currentNanoseconds() -> Int64 {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }
}

extension CatalogTransaction {
    /// Records that a volume has other images from now on.
    fileprivate func replaceNodes(
        of volume: Volume, by images: ImageChain, _ look: ImageFingerprint, ownsTop: Bool
    ) throws(CatalogError) {
        let known = try nodes(ofVolume: volume.id)
        let nodes = images.nodes.enumerated().map { position, node in
            node.record(
                isOwned: position == 0 && ownsTop
                    || known.contains { $0.path == node.path && $0.isOwned },
                look: position == 0 ? look : nil)
        }
        try setNodes(nodes, ofVolume: volume.id)
    }
}
