import BlockCore
import Synchronization
import TestSupport
import Testing

@testable import Volumes

@Suite struct RangeLockTests {
    let lock = RangeLock()

    @Test func rangesThatTouchButDoNotOverlapAreHeldTogether() throws {
        let first = try #require(lock.tryAcquire(ByteRange(offset: 0, lengthBytes: 10)))
        let second = try #require(lock.tryAcquire(ByteRange(offset: 10, lengthBytes: 10)))
        #expect(lock.tryAcquire(ByteRange(offset: 9, lengthBytes: 1)) == nil)
        lock.release(first)
        let third = try #require(lock.tryAcquire(ByteRange(offset: 9, lengthBytes: 1)))
        lock.release(second)
        lock.release(third)
    }

    @Test func aWideRequestIsNotStarvedByNarrowOnesThatComeLater() async throws {
        let narrow = try #require(lock.tryAcquire(ByteRange(offset: 0, lengthBytes: 1)))
        let wide = Task { await lock.acquire(ByteRange(offset: 0, lengthBytes: 100)) }
        while lock.tryAcquire(ByteRange(offset: 50, lengthBytes: 1)).map(lock.release) != nil {
            await Task.yield()
        }
        // The wide one waits now: what overlaps it waits behind it, though nobody holds byte 50.
        #expect(lock.tryAcquire(ByteRange(offset: 50, lengthBytes: 1)) == nil)
        lock.release(narrow)
        lock.release(await wide.value)
        #expect(lock.tryAcquire(ByteRange(offset: 50, lengthBytes: 1)) != nil)
    }

    @Test func pastItsDeadlineARequestChangesNothing() async throws {
        let held = try #require(lock.tryAcquire(ByteRange(offset: 0, lengthBytes: 10)))
        let refused = await lock.acquire(
            ByteRange(offset: 0, lengthBytes: 100), within: .milliseconds(20))
        #expect(refused == nil)
        #expect(lock.tryAcquire(ByteRange(offset: 10, lengthBytes: 90)) != nil)
        lock.release(held)
    }

    @Test func manyTasksNeverHoldTheSameByteAtOnce() async throws {
        let owners = Owners()
        await withTaskGroup(of: Void.self) { group in
            for worker in 1...8 {
                group.addTask {
                    var random = Seed.generator("range lock \(worker)")
                    for _ in 0..<500 {
                        let offset = Int.random(in: 0..<64, using: &random)
                        let length = Int.random(in: 1...(64 - offset), using: &random)
                        let hold = await lock.acquire(
                            ByteRange(offset: UInt64(offset), lengthBytes: UInt64(length)))
                        owners.enter(offset..<offset + length, worker)
                        await Task.yield()
                        owners.leave(offset..<offset + length)
                        lock.release(hold)
                    }
                }
            }
        }
        #expect(owners.overlapCount == 0)
    }
}

/// Who is in which byte, and how often somebody came where somebody was.
private final class Owners: Sendable {
    private let state = Mutex((bytes: [Int](repeating: 0, count: 64), overlaps: 0))

    var overlapCount: Int { state.withLock { $0.overlaps } }

    func enter(_ range: Range<Int>, _ worker: Int) {
        state.withLock { state in
            for byte in range {
                if state.bytes[byte] != 0 { state.overlaps += 1 }
                state.bytes[byte] = worker
            }
        }
    }

    func leave(_ range: Range<Int>) {
        state.withLock { state in
            for byte in range { state.bytes[byte] = 0 }
        }
    }
}
