import Bitmaps
import BlockCore
import Catalog
import Synchronization

// How regions leave the activity log while guests go on writing.
//
//   close    the region's bit is dropped: a write that begins from here on announces it again, and
//            its announcement waits for its turn on this thread, behind the commit below
//   drain    a write that began before holds a range in it. Then the region is not cold after all:
//            it is opened again and stays. So nothing waits for a write, and no write for this.
//   take     the chunks of every bitmap that the region touches. With its writes done, they say all
//            that the region said.
//   commit   chunks and removal, in one transaction
//
// All four are one step on the catalog's thread, and a step is small, since an announcement may
// have to wait for its commit.

/// One commit's worth of cold regions, of one volume or several, on their way out of the log.
struct Retirement {
    /// Bounds of one commit: it takes about two milliseconds.
    private static let chunkCountMax = 64
    private static let regionCountMax = 256

    private struct Part {
        let volume: Volume
        var regions: [Int] = []
        var taken: [TakenChunks] = []
    }

    private var parts: [Part] = []
    private var chunkCount = 0
    private var regionCount = 0

    /// Whether the rest is for another commit.
    var isFull: Bool {
        chunkCount >= Self.chunkCountMax || regionCount >= Self.regionCountMax
    }

    /// Closes the regions of `candidates` that nobody is writing and takes their chunks, until the
    /// commit is full. Returns those that were not looked at.
    mutating func add(_ candidates: [Int], of volume: Volume) -> ArraySlice<Int> {
        let log = volume.log
        let table = volume.bitmaps.withLock { $0 }
        var part = Part(volume: volume)
        var rest = candidates[...]
        while !isFull, let region = rest.popFirst() {
            let range = log.range(ofRegion: UInt64(region))
            if !Mutant.retireWithoutClosing.isActive { log.close(region) }
            if volume.locks.isHeld(range), !Mutant.retireWithoutDrain.isActive {
                log.reopen(region)
                continue
            }
            part.regions.append(region)
            regionCount += 1
            if Mutant.retireWithoutChunks.isActive { continue }
            let taken = table.takeDirtyChunks(touching: range)
            part.taken += taken
            chunkCount += taken.reduce(0) { $0 + $1.chunks.count }
        }
        if !part.regions.isEmpty { parts.append(part) }
        return rest
    }

    /// Commits what was added. After a failure the regions stay in the catalog and count as not
    /// announced.
    func commit(to catalog: Catalog) throws(BlockError) {
        guard !parts.isEmpty else { return }
        defer { for part in parts { part.volume.log.didRemove(part.regions) } }
        do throws(CatalogError) {
            try catalog.write { (transaction) throws(CatalogError) in
                for part in parts {
                    for taken in part.taken {
                        try transaction.putChunks(taken.chunks, ofBitmap: taken.bitmapID)
                    }
                    try transaction.removeRegions(
                        part.regions.map(UInt64.init), ofVolume: part.volume.id)
                }
            }
        } catch {
            for part in parts { for taken in part.taken { taken.giveBack() } }
            throw BlockError(catalog: error, "retire cold regions")
        }
    }
}

extension Retirement {
    /// After how long without a write a region is cold.
    static let coldAfter = Duration.seconds(60)

    /// Retires what has been cold for `duration`, of all `volumes` together, in as many commits as
    /// it takes.
    static func retireCold(
        of volumes: [Volume], after duration: Duration, on queue: CatalogQueue
    ) async throws(BlockError) {
        var hasMore = true
        while hasMore {
            hasMore = try await queue.run { (catalog) throws(BlockError) in
                var step = Retirement()
                for volume in volumes where !step.isFull {
                    _ = step.add(volume.log.regions(unusedFor: duration), of: volume)
                }
                try step.commit(to: catalog)
                return step.isFull
            }
        }
    }

    /// Has the coldest regions of a volume retired soon, if its log is above its bound. The caller
    /// does not wait; what fails is tried again with the next announcement.
    static func retireExcess(of volume: Volume, _ log: ActivityLog) {
        guard log.beginRetiring() else { return }
        volume.queue.submit { catalog in
            continueRetiring(log.excess()[...], of: volume, log, catalog)
        }
    }

    private static func continueRetiring(
        _ regions: ArraySlice<Int>, of volume: Volume, _ log: ActivityLog, _ catalog: Catalog
    ) {
        // Another log since the volume was resized.
        guard log === volume.log else { return log.endRetiring() }
        var step = Retirement()
        let rest = step.add(Array(regions), of: volume)
        do throws(BlockError) { try step.commit(to: catalog) } catch { return log.endRetiring() }
        guard !rest.isEmpty else { return log.endRetiring() }
        volume.queue.submit { catalog in continueRetiring(rest, of: volume, log, catalog) }
    }
}
