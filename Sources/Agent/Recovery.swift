import BlockCore
import Catalog
import Jobs
import Logging
import Volumes

/// Settles what crashes and failures left frozen, in the background: guests do not wait for a
/// repository.
actor Recovery {
    private var unsettled: [FrozenBitmap]
    private let repositories: RepositoryStore
    private let log: Logger

    /// `volumes` are those that were just opened: no backup has begun yet.
    init(volumes: [Volume], repositories: RepositoryStore, log: Logger) {
        unsettled = volumes.flatMap { $0.frozenBitmaps() }
        self.repositories = repositories
        self.log = log
    }

    /// Takes over a bitmap that no backup is at work on any more.
    func add(_ bitmap: FrozenBitmap) { unsettled.append(bitmap) }

    /// Tries until the task is cancelled; `firstDone` is called after the first attempt.
    func run(firstDone: @Sendable () -> Void) async {
        await settle(unsettled)
        firstDone()
        while true {
            do { try await Task.sleep(for: .seconds(30)) } catch { return }
            await settle(unsettled)
        }
    }

    /// Tries those of `volumes` that wait for a repository once.
    func settle(_ volumes: [Volume], in repositoryID: Int64) async {
        await settle(
            unsettled.filter { bitmap in
                bitmap.pending.repositoryID == repositoryID
                    && volumes.contains { $0 === bitmap.volume }
            })
    }

    private func settle(_ due: [FrozenBitmap]) async {
        for bitmap in due where bitmap.isFrozen {
            do throws(BlockError) {
                let repository = try await repositories.repository(
                    id: bitmap.pending.repositoryID)
                let outcome = try await Settlement.settle(bitmap, in: repository)
                log.notice("\(Self.text(outcome))", metadata: Self.metadata(bitmap))
            } catch {
                log.warning(
                    "a bitmap stays frozen until its repository answers: \(error)",
                    metadata: Self.metadata(bitmap))
            }
        }
        // What was settled meanwhile by somebody else is gone too.
        unsettled.removeAll { !$0.isFrozen }
    }

    private static func text(_ outcome: Settlement) -> String {
        switch outcome {
        case .promoted: "an interrupted backup had made its point; its bitmap continues it"
        case .kept: "an interrupted differential had made its point; its bitmap goes on as before"
        case .undone: "an interrupted backup was undone; nothing its bitmap recorded is lost"
        }
    }

    private static func metadata(_ bitmap: FrozenBitmap) -> Logger.Metadata {
        [
            "volume": "\(bitmap.volume.name)", "bitmap": "\(bitmap.name)",
            "point": "\(bitmap.pending.pointID)",
        ]
    }
}
