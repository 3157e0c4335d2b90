import Testing

@testable import Jobs

/// How a job at idle priority makes room for guests, without any clock.
@Suite struct IdlePolicyTests {
    /// Guests whose requests take `alone` with the job at rest, and longer by `share` for each of
    /// its requests in flight. Returns what the job had in flight in each tick.
    private func run(
        ticks: Int, alone: Double, share: Double, isBusy: (Int) -> Bool = { _ in true }
    ) -> [Int] {
        var policy = IdlePolicy(countMax: 8)
        return (0..<ticks).map { tick in
            let count = policy.allowedCount
            let seconds = alone + share * Double(count)
            policy.tick(
                GuestTick(requestCount: isBusy(tick) ? 10 : 0, seconds: seconds * 10),
                isAtRest: count == 0)
            return count
        }
    }

    @Test func withNobodyElseThereItTakesAllThereIs() {
        let counts = run(ticks: 10, alone: 0, share: 0) { _ in false }
        #expect(counts.dropFirst(2).allSatisfy { $0 == 8 })
    }

    @Test func guestsThatAreNotHeldUpHoldNothingUp() {
        let counts = run(ticks: 40, alone: 0.001, share: 0)
        #expect(counts.last == 8)
    }

    @Test func guestsThatFeelEveryRequestAreLeftAloneMostOfTheTime() {
        let counts = run(ticks: 200, alone: 0.001, share: 0.010)
        #expect(Double(counts.suffix(100).reduce(0, +)) / 100 < 0.2)
        // It never gives up altogether.
        #expect(counts.suffix(100).contains(1))
    }

    @Test func whatGuestsDoNotFeelIsTaken() {
        // Three at a time are within what counts as unnoticed.
        let counts = run(ticks: 200, alone: 0.010, share: 0.0015)
        let mean = Double(counts.suffix(150).reduce(0, +)) / 150
        #expect(mean > 1 && mean < 5)
    }

    @Test func guestsWhoseRequestsAreAnsweredAtOnceAreThereToo() {
        var policy = IdlePolicy(countMax: 8)
        for _ in 0..<10 { policy.tick(GuestTick(requestCount: 0, seconds: 0), isAtRest: false) }
        #expect(!policy.isGentle)
        policy.tick(GuestTick(promptCount: 1, requestCount: 0, seconds: 0), isAtRest: false)
        #expect(policy.isGentle)
        for _ in 0..<2 { policy.tick(GuestTick(requestCount: 0, seconds: 0), isAtRest: false) }
        #expect(!policy.isGentle)
    }

    @Test func whenGuestsStopItTakesAllAtOnce() {
        let counts = run(ticks: 60, alone: 0.001, share: 0.010) { $0 < 50 }
        #expect(counts.suffix(7).allSatisfy { $0 == 8 })
    }

    @Test func aGuestThatComesFindsRoomWithinTicks() {
        let counts = run(ticks: 30, alone: 0.001, share: 0.010) { $0 >= 10 }
        #expect(counts[9] == 8 && counts[11] == 0)
        #expect(counts.dropFirst(11).allSatisfy { $0 <= 1 })
    }
}
