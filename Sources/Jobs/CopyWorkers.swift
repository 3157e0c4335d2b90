import BlockCore
import Synchronization

/// Runs several workers over the pieces of a copy until there are none left.
///
/// The first failure stops all workers: each finishes the request that it has in flight, no
/// buffer is given up before, and then the failure is thrown. Between pieces they pause with the job.
enum CopyWorkers {
    /// The most that a worker has in memory at a time: longer pieces are copied in steps.
    private static let stepBytesMax: UInt64 = 4 << 20

    static func run(
        _ source: PieceSource, workerCount: Int = 4, job: Job,
        _ copy: @escaping @Sendable (Piece) async throws(BlockError) -> Void
    ) async throws(BlockError) {
        try await run(
            workerCount: workerCount, job: job,
            next: { () async throws(BlockError) in try await source.next() },
            lengthBytes: { $0.range.lengthBytes }, copy)
    }

    /// The same over whatever `next` gives.
    static func run<Item: Sendable>(
        workerCount: Int, job: Job,
        next: @escaping @Sendable () async throws(BlockError) -> Item?,
        lengthBytes: @escaping @Sendable (Item) -> UInt64,
        _ copy: @escaping @Sendable (Item) async throws(BlockError) -> Void
    ) async throws(BlockError) {
        let failure = FirstFailure()
        try await job.withTasks(workerCount) { () async throws(BlockError) in
            await withTaskGroup(of: Void.self) { group in
                for _ in 0..<workerCount {
                    group.addTask(executorPreference: IOPool.background) {
                        defer { job.endTask() }
                        do throws(BlockError) {
                            while failure.value == nil, let piece = try await next() {
                                try await job.pausePoint()
                                let memoryBytes = min(lengthBytes(piece), stepBytesMax)
                                await MemoryBudget.shared.wait(for: memoryBytes, for: .jobs)
                                defer { MemoryBudget.shared.give(memoryBytes, for: .jobs) }
                                try await copy(piece)
                                job.advance(by: lengthBytes(piece))
                            }
                        } catch {
                            failure.report(error)
                        }
                    }
                }
            }
        }
        if let error = failure.value { throw error }
    }
}

/// The failure that several workers stop for: the first that one of them met.
final class FirstFailure: Sendable {
    private let first = Mutex<BlockError?>(nil)

    var value: BlockError? { first.withLock { $0 } }

    func report(_ error: BlockError) {
        first.withLock { first in
            if first == nil { first = error }
        }
    }
}
