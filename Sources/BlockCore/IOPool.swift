import CLinux
import Glibc
import Synchronization

// Threads for system calls that may block, apart from Swift's cooperative ones, which must not.
//
// A pool is also a task executor: a task started with a pool as its executor preference runs on
// the pool's threads, and `run` inside it calls its body at once, so that a request that had to
// be handed over wakes one thread, once. A pool for guests and a pool for repositories are kept
// apart, so that a hung repository cannot take the threads that guests need.
//
// Copies yield to guests, in two ways. The threads of the background are niced: with all processors
// busy, a guest's request that arrives runs before them. And what a copy wants of a guest's disk is
// done by the copy's own thread, so that it neither runs nor waits for the disk on a guest's.

/// A fixed number of threads that execute blocking work in order of arrival.
package final class IOPool: TaskExecutor {
    /// For the disks that guests use.
    package static let guest = IOPool(
        name: "io-guest", threadCount: 12, alsoOnThreadsOf: background)

    /// For repositories, restores and everything else that a slow medium may hold up.
    package static let background = IOPool(
        name: "io-background", threadCount: 8, niceness: backgroundNiceness)

    /// By how much threads yield that no guest waits for.
    package static let backgroundNiceness: Int32 = 5

    private enum Work {
        case closure(@Sendable () -> Void)
        case job(UnownedJob)
    }

    private let queue = WorkQueue<Work>()

    /// A pool on whose threads `run` calls its body at once, as on its own.
    private let other: IOPool?

    package init(
        name: String, threadCount: Int, niceness: Int32 = 0, alsoOnThreadsOf other: IOPool? = nil
    ) {
        precondition(threadCount > 0)
        self.other = other
        for index in 0..<threadCount {
            HostThread.start(name: "\(name)-\(index)") { [self] in
                if niceness != 0 { clinux_set_thread_niceness(niceness) }
                serve()
            }
        }
    }

    /// Runs `body`, which may block, on one of the pool's threads: at once if the caller is
    /// already on one, or on one that may do this pool's work.
    package func run<T: Sendable>(
        _ body: @escaping @Sendable () throws(BlockError) -> T
    ) async throws(BlockError) -> T {
        let current = clinux_thread_pool()
        if current == identity || current != 0 && current == other?.identity { return try body() }
        let result: Result<T, BlockError> = await withUnsafeContinuation { continuation in
            queue.append(
                .closure {
                    do throws(BlockError) {
                        continuation.resume(returning: .success(try body()))
                    } catch {
                        continuation.resume(returning: .failure(error))
                    }
                })
        }
        return try result.get()
    }

    /// Runs `body`, which may block, on one of the pool's threads some time later.
    package func submit(_ body: @escaping @Sendable () -> Void) {
        queue.append(.closure(body))
    }

    package func enqueue(_ job: consuming ExecutorJob) {
        queue.append(.job(UnownedJob(job)))
    }

    private var identity: UInt {
        UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque())
    }

    private func serve() {
        clinux_set_thread_pool(identity)
        while true {
            switch queue.next() {
            case .closure(let body): body()
            case .job(let job): job.runSynchronously(on: asUnownedTaskExecutor())
            }
        }
    }
}
