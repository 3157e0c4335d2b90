import Bitmaps
package import BlockCore
import Catalog
import Glibc
import Synchronization

// Changes of bitmaps and freezes, of one volume or of many, at one quiet instant and in one transaction
// of the catalog: every write of a guest lies wholly before or wholly after all of them, and after a
// crash all or none have happened. Each step sees what those before it have done.
//
// New writes of all volumes are held, those in flight drained, the catalog is changed, memory follows,
// and the writes go on. Past the deadline, or if the commit fails, all is released unchanged.

/// One step of a transaction.
package enum QuietStep: Sendable {
    case change(Volume, BitmapChange)
    /// At most one for a volume.
    case freeze(FreezeRequest)
    /// Has the transaction fail with that error, if it has come so far.
    case refuse(Volume, BlockError)

    package var volume: Volume {
        switch self {
        case .change(let volume, _), .refuse(let volume, _): volume
        case .freeze(let request): request.volume
        }
    }

    var operation: String {
        switch self {
        case .change(_, let change): change.operation
        case .freeze: "freeze the bitmaps"
        case .refuse(_, let error): error.operation
        }
    }
}

/// Takes steps together.
package enum QuietTransaction {
    /// Takes all steps, or none and throws why not. What was frozen is returned in the order of the
    /// steps.
    package static func run(
        _ steps: [QuietStep], deadline: Duration = .seconds(10)
    ) async throws(BlockError) -> (volumes: [FrozenVolume], instant: FreezeInstant) {
        var found: [Volume] = []
        for step in steps where !found.contains(where: { $0 === step.volume }) {
            found.append(step.volume)
        }
        // In the order of their ids, so that two transactions cannot wait for each other.
        let volumes = found.sorted { $0.id < $1.id }
        for volume in volumes {
            try await volume.persistAhead()
            if Mutant.flushBeforeFreeze.isActive { try await volume.flush() }
        }
        let started = ContinuousClock.now
        let end = started + deadline
        let holds =
            Mutant.freezeWithoutDrain.isActive
            ? [] : try await Volume.hold(volumes, until: end, to: "freeze")
        defer { for (volume, hold) in holds { volume.locks.release(hold) } }
        let nanoseconds = currentNanoseconds()
        var frozen: [FrozenVolume] = []
        if let first = volumes.first {
            frozen = try await first.queue.run { (catalog) throws(BlockError) in
                guard
                    ContinuousClock.now < started + deadline
                        || Mutant.freezeWithoutDeadline.isActive
                else {
                    throw BlockError(
                        .busy, "freeze", on: first.name,
                        detail: "the catalog was not free before the deadline; try again")
                }
                return try take(steps, of: volumes, in: catalog)
            }
        }
        let instant = FreezeInstant(
            nanoseconds: nanoseconds, heldFor: ContinuousClock.now - started)
        return (frozen, instant)
    }

    /// On the catalog's thread with every volume held.
    private static func take(
        _ steps: [QuietStep], of volumes: [Volume], in catalog: Catalog
    ) throws(BlockError) -> [FrozenVolume] {
        var tables: [Int64: BitmapTable] = [:]
        for volume in volumes { tables[volume.id] = volume.bitmaps.withLock { $0 } }
        let taken =
            Mutant.freezeWithoutChunks.isActive
            ? [] : volumes.flatMap { tables[$0.id]?.takeDirtyChunks() ?? [] }
        var refusal: BlockError?
        do throws(CatalogError) {
            try catalog.write { (transaction) throws(CatalogError) in
                for chunks in taken {
                    try transaction.putChunks(chunks.chunks, ofBitmap: chunks.bitmapID)
                }
                for volume in volumes { try transaction.clearRegions(ofVolume: volume.id) }
                for step in steps {
                    do {
                        try apply(step, to: &tables, in: transaction)
                    } catch let error as CatalogError {
                        throw error
                    } catch {
                        refusal = error as? BlockError
                        throw CatalogError(
                            .other, step.operation, on: step.volume.name, detail: "\(error)")
                    }
                }
            }
        } catch {
            for chunks in taken { chunks.giveBack() }
            // A commit that failed may yet show after a crash: its regions are announced again.
            for volume in volumes { volume.log.didClear() }
            throw refusal ?? BlockError(catalog: error, steps[0].operation)
        }
        return follow(steps, of: volumes, tables)
    }

    private static func apply(
        _ step: QuietStep, to tables: inout [Int64: BitmapTable],
        in transaction: CatalogTransaction
    ) throws {
        let before = tables
        guard var table = before[step.volume.id] else { return }
        switch step {
        case .change(let volume, let change):
            try change.apply(to: &table, of: volume, in: transaction) {
                (source, lengthBytes) throws(BlockError) in
                try source.volume.mergeableBits(
                    of: source.name, lengthBytes: lengthBytes, in: before[source.volume.id])
            }
        case .freeze(let request):
            try request.checkBitmap(in: table)
            let successor = try DirtyBitmap(
                lengthBytes: request.volume.lengthBytes,
                granularityBytes: request.granularityBytes)
            try table.freeze(request, successorBits: successor, in: transaction)
        case .refuse(_, let error): throw error
        }
        tables[step.volume.id] = table
    }

    /// After the commit, with the volumes held: memory follows.
    private static func follow(
        _ steps: [QuietStep], of volumes: [Volume], _ tables: [Int64: BitmapTable]
    ) -> [FrozenVolume] {
        for volume in volumes {
            guard let table = tables[volume.id] else { continue }
            volume.bitmaps.withLock { $0 = table }
            volume.duties.recording = table.recording
            let inUse = volume.log.manyInUse()
            volume.log.didClear()
            volume.log.announceSoon(inUse)
        }
        return steps.compactMap { step in
            guard case .freeze(let request) = step, let table = tables[step.volume.id] else {
                return nil
            }
            return request.install(table)
        }
    }

    private static func currentNanoseconds() -> Int64 {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }
}
