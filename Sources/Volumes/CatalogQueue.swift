package import BlockCore
package import Catalog
import Synchronization

// The one thread on which the agent changes its catalog.
//
// Two kinds of work run here, in order of arrival: steps that change the catalog together with
// the memory that mirrors it, and the announcements of regions that guests' writes wait for.
// Announcements are group-committed: those that arrive while a commit is under way, of all
// volumes together, share the next one.

/// Serialises changes of the catalog, and shares commits among waiting writers.
package final class CatalogQueue: Sendable {
    private struct Announcement {
        let log: ActivityLog
        let regions: [Int]
        let continuation: UnsafeContinuation<BlockError?, Never>
    }

    private struct State {
        var pending: [Announcement] = []
        var isDraining = false
    }

    package let catalog: Catalog
    private let thread = IOPool(name: "catalog", threadCount: 1)
    private let state = HostMutex(State())

    package init(catalog: Catalog) {
        self.catalog = catalog
    }

    /// Runs `body` alone on the catalog's thread.
    package func run<T: Sendable>(
        _ body: @escaping @Sendable (Catalog) throws(BlockError) -> T
    ) async throws(BlockError) -> T {
        try await thread.run { [catalog] () throws(BlockError) -> T in try body(catalog) }
    }

    /// Runs `body` alone on the catalog's thread some time later, behind what waits there now.
    func submit(_ body: @escaping @Sendable (Catalog) -> Void) {
        thread.submit { [catalog] in body(catalog) }
    }

    /// How many announcements wait for the next commit.
    var waitingCount: Int { state.withLock { $0.pending.count } }

    /// Runs one transaction alone on the catalog's thread; a failure is one to do `operation`.
    package func change(
        _ operation: String = "change",
        _ body: @escaping @Sendable (CatalogTransaction) throws(CatalogError) -> Void
    ) async throws(BlockError) {
        try await run { (catalog) throws(BlockError) in
            do throws(CatalogError) { try catalog.write(body) } catch {
                throw BlockError(catalog: error, operation)
            }
        }
    }

    /// Commits `regions` of the log's volume to the catalog and then sets them in the log.
    func announce(_ regions: [Int], in log: ActivityLog) async throws(BlockError) {
        let failure = await withUnsafeContinuation { continuation in
            let mustDrain = state.withLock { state in
                state.pending.append(
                    Announcement(log: log, regions: regions, continuation: continuation))
                defer { state.isDraining = true }
                return !state.isDraining
            }
            if mustDrain { thread.submit { [self] in drain() } }
        }
        if let failure { throw failure }
    }

    /// Commits what has gathered, and comes back later for what gathers meanwhile: other work of
    /// this thread gets its turn in between.
    private func drain() {
        let batch = state.withLock { state in
            defer { state.pending = [] }
            return state.pending
        }
        let failure = commit(batch.filter { !$0.log.isEnded })
        for announcement in batch { announcement.continuation.resume(returning: failure) }
        let hasMore = state.withLock { state in
            state.isDraining = !state.pending.isEmpty
            return state.isDraining
        }
        if hasMore { thread.submit { [self] in drain() } }
    }

    private func commit(_ batch: [Announcement]) -> BlockError? {
        guard !batch.isEmpty else { return nil }
        if Mutant.trustAnnouncementBeforeCommit.isActive { apply(batch) }
        // What needs less survives more when it shares a commit.
        let isForPower = batch.contains { $0.log.durability == .power }
        do throws(CatalogError) {
            try catalog.write(durability: isForPower ? .power : .process) {
                (transaction) throws(CatalogError) in
                for announcement in batch {
                    try transaction.announce(
                        announcement.regions.map(UInt64.init), ofVolume: announcement.log.volumeID)
                }
            }
        } catch {
            return BlockError(catalog: error, "announce a region")
        }
        apply(batch)
        return nil
    }

    private func apply(_ batch: [Announcement]) {
        for announcement in batch { announcement.log.didCommit(announcement.regions) }
    }
}

extension BlockError {
    /// A failure of the catalog in the data plane's terms.
    package init(catalog error: CatalogError, _ operation: String) {
        let kind: BlockError.Kind =
            switch error.kind {
            case .full: .noSpace
            case .busy, .locked: .busy
            case .corrupt: .corrupt
            case .notFound: .notFound
            default: .io
            }
        self.init(kind, operation, on: "catalog", detail: error.description)
    }
}
