import BlockCore
import TestSupport
import Testing

@Suite struct MemoryBudgetTests {
    @Test func noMoreIsTakenThanTheLimit() {
        let budget = MemoryBudget(limitBytes: 100)
        #expect(budget.tryTake(60, for: .caches))
        #expect(!budget.tryTake(41, for: .fleeces))
        #expect(budget.tryTake(40, for: .requests))
        budget.give(60, for: .caches)
        #expect(budget.usedBytes == [.requests: 40, .fleeces: 0, .caches: 0, .jobs: 0])
        #expect(budget.tryTake(60, for: .fleeces))
    }

    @Test func whatCannotBeDoneWithoutIsTakenAnyway() {
        let budget = MemoryBudget(limitBytes: 100)
        budget.take(150, for: .caches)
        #expect(!budget.tryTake(1, for: .requests))
        budget.give(150, for: .caches)
        #expect(budget.tryTake(100, for: .requests))
    }

    @Test func aJobWithNothingInFlightGetsItsPieceWhateverOthersHold() async {
        let budget = MemoryBudget(limitBytes: 100)
        budget.take(100, for: .fleeces)
        await budget.wait(for: 30, for: .jobs)
        #expect(budget.usedBytes[.jobs] == 30)
    }

    @Test func whoWaitsGetsItInTheOrderOfAsking() async {
        let budget = MemoryBudget(limitBytes: 100)
        #expect(budget.tryTake(100, for: .jobs))
        let order = HostMutex<[Int]>([])
        await withTaskGroup(of: Void.self) { group in
            for number in 0..<3 {
                group.addTask {
                    await budget.wait(for: number == 0 ? 80 : 10, for: .jobs)
                    order.withLock { $0.append(number) }
                    if number == 0 { budget.give(80, for: .jobs) }
                }
                // The next one asks when this one waits.
                while budget.waitingCount <= number { await Task.yield() }
            }
            // Enough for the small ones, which came later.
            budget.give(30, for: .jobs)
            #expect(!budget.tryTake(1, for: .caches), "taken before those that wait")
            let served = order.withLock { $0 }
            #expect(served.isEmpty)
            budget.give(70, for: .jobs)
        }
        let served = order.withLock { $0 }
        #expect(served.first == 0)
        #expect(budget.usedBytes[.jobs] == 20)
    }

    @Test func aHigherLimitLetsThoseThatWaitGoOn() async {
        let budget = MemoryBudget(limitBytes: 10)
        #expect(budget.tryTake(10, for: .jobs))
        async let waited: Void = budget.wait(for: 10, for: .jobs)
        while budget.waitingCount == 0 { await Task.yield() }
        budget.limitBytes = 20
        await waited
        #expect(budget.usedBytes[.jobs] == 20)
    }

    /// Many tasks take, wait and give: the limit holds at every moment, and all come to an end.
    @Test func underLoadTheLimitHoldsAndNobodyStarves() async {
        let seed = Seed.current
        let budget = MemoryBudget(limitBytes: 1000)
        let most = HostMutex<UInt64>(0)
        await withTaskGroup(of: Void.self) { group in
            for worker in 0..<8 {
                group.addTask {
                    var random = SplitMix64(seed: seed &+ UInt64(worker))
                    for _ in 0..<500 {
                        let bytes = UInt64.random(in: 1...400, using: &random)
                        await budget.wait(for: bytes, for: .jobs)
                        let used = budget.usedBytes[.jobs] ?? 0
                        most.withLock { $0 = max($0, used) }
                        if Bool.random(using: &random) { await Task.yield() }
                        budget.give(bytes, for: .jobs)
                    }
                }
            }
        }
        let peak = most.withLock { $0 }
        #expect(peak <= 1000)
        #expect(peak > 400, "the workers never met")
        #expect(budget.usedBytes[.jobs] == 0)
    }
}
