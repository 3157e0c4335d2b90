import BlockCore
import Synchronization

/// Runs several workers over the pieces of a copy until there are none left.
///
/// The first failure stops all workers: each finishes the request that it has in flight, no
/// buffer is given up before, and then the failure is thrown.
enum CopyWorkers {
    static func run(
        _ source: PieceSource, workerCount: Int = 4, job: Job,
        _ copy: @escaping @Sendable (Piece) async throws(BlockError) -> Void
    ) async throws(BlockError) {
        let failure = FirstFailure()
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<workerCount {
                group.addTask(executorPreference: IOPool.background) {
                    do throws(BlockError) {
                        while failure.value == nil, let piece = try await source.next() {
                            try job.checkCancelled()
                            let memoryBytes = piece.isZero ? 0 : piece.range.lengthBytes
                            await MemoryBudget.shared.wait(for: memoryBytes, for: .jobs)
                            defer { MemoryBudget.shared.give(memoryBytes, for: .jobs) }
                            try await copy(piece)
                            job.advance(by: piece.range.lengthBytes)
                        }
                    } catch {
                        failure.report(error)
                    }
                }
            }
        }
        if let error = failure.value { throw error }
    }
}

/// The failure that several workers stop for: the first that one of them met.
private final class FirstFailure: Sendable {
    private let first = Mutex<BlockError?>(nil)

    var value: BlockError? { first.withLock { $0 } }

    func report(_ error: BlockError) {
        first.withLock { first in
            if first == nil { first = error }
        }
    }
}
