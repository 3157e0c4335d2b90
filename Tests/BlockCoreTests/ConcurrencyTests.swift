import Glibc
import TestSupport
import Testing

@testable import BlockCore

@Suite struct ConcurrencyTests {
    @Test func workOfThePoolRunsAtOnceOnItsOwnThreads() async throws {
        let pool = IOPool(name: "test", threadCount: 2)
        let inner = try await pool.run { () throws(BlockError) in pthread_self() }
        #expect(inner != pthread_self())
        // On the pool already, nothing is handed over: the thread stays the same.
        let (before, within) = try await withTaskExecutorPreference(pool) {
            let before = currentThread()
            let within = try await pool.run { () throws(BlockError) in pthread_self() }
            return (before, within)
        }
        #expect(before == within)
    }

    @Test func errorsOfWorkComeBackTyped() async {
        let pool = IOPool(name: "test", threadCount: 1)
        await #expect(throws: BlockError(.noSpace, "test", on: "pool")) {
            try await pool.run { () throws(BlockError) in
                throw BlockError(.noSpace, "test", on: "pool")
            }
        }
    }

    @Test func aPoolServesMoreTasksThanItHasThreads() async throws {
        let pool = IOPool(name: "test", threadCount: 2)
        let done = HostMutex(0)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<50 {
                group.addTask {
                    try await pool.run { () throws(BlockError) in _ = usleep(1000) }
                    done.withLock { $0 += 1 }
                }
            }
            try await group.waitForAll()
        }
        #expect(done.withLock { $0 } == 50)
    }

    @Test func anAsyncLockLetsOneInAtATimeEvenAcrossSuspension() async throws {
        let lock = AsyncLock()
        let inside = HostMutex(0)
        let total = HostMutex(0)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<20 {
                group.addTask {
                    try await lock.withLock { () async throws(BlockError) in
                        inside.withLock {
                            $0 += 1
                            #expect($0 == 1)
                        }
                        await Task.yield()
                        inside.withLock { $0 -= 1 }
                        total.withLock { $0 += 1 }
                    }
                }
            }
            try await group.waitForAll()
        }
        #expect(total.withLock { $0 } == 20)
    }

    @Test func anErrorInsideAnAsyncLockReleasesIt() async throws {
        let lock = AsyncLock()
        await #expect(throws: BlockError.self) {
            try await lock.withLock { () async throws(BlockError) in
                throw BlockError(.io, "test", on: "lock")
            }
        }
        #expect(try await lock.withLock { () async throws(BlockError) in 7 } == 7)
    }

    @Test func aHostMutexExcludes() async {
        let count = HostMutex(0)
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<8 {
                group.addTask { for _ in 0..<1000 { count.withLock { $0 += 1 } } }
            }
        }
        #expect(count.withLock { $0 } == 8000)
    }

    private func currentThread() -> pthread_t { pthread_self() }
}
