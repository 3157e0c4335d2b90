import Testing

@testable import NBDServer

/// The pauses of `NBDGathering`, against a client that needs a fixed time for each reply.
@Suite struct GatheringTests {
    /// A client that sends the next request for each reply it has taken.
    private struct Client {
        let depth: Int
        let nanosecondsPerReply: Int64
        /// Replies sent and not taken.
        var replies = 0
        /// Requests sent and not received.
        var requests: Int
        private var restNanoseconds: Int64 = 0

        init(depth: Int, nanosecondsPerReply: Int64) {
            self.depth = depth
            self.nanosecondsPerReply = nanosecondsPerReply
            requests = depth
        }

        mutating func run(nanoseconds: Int64) {
            restNanoseconds += nanoseconds
            let taken = min(Int64(replies), restNanoseconds / nanosecondsPerReply)
            restNanoseconds = replies > Int(taken) ? restNanoseconds % nanosecondsPerReply : 0
            replies -= Int(taken)
            requests += Int(taken)
        }
    }

    private struct Result {
        var pauses = 0
        var waits = 0
        var answered = 0
        var dry = 0
    }

    /// Serves `client` until it had `requests` answered, each of which takes 2 µs.
    private func serve(_ start: Client, requests: Int) -> Result {
        var client = start
        var gathering = NBDGathering()
        var result = Result()
        while result.answered < requests {
            let ranDry = gathering.pauseNanoseconds > 0 && client.replies == 0
            // What comes while the batch is answered is part of it; it waits if there is nothing.
            var batch = 0
            if client.requests == 0 { client.run(nanoseconds: client.nanosecondsPerReply) }
            while client.requests > 0 {
                let count = client.requests
                client.requests = 0
                batch += count
                client.run(nanoseconds: Int64(count) * 2_000)
                client.replies += count
            }
            gathering.learn(requests: batch, bytes: batch * 28, clientRanDry: ranDry)
            result.answered += batch
            result.waits += 1
            if ranDry { result.dry += 1 }
            if gathering.pauseNanoseconds > 0 { result.pauses += 1 }
            client.run(nanoseconds: gathering.pauseNanoseconds)
        }
        return result
    }

    @Test func aDeepQueueIsAnsweredInGoodBatches() {
        let result = serve(Client(depth: 32, nanosecondsPerReply: 5_000), requests: 100_000)
        #expect(result.answered / result.waits >= NBDGathering.goodBatch / 2)
        #expect(result.dry * 100 < result.pauses)
    }

    @Test func aClientThatWaitsForEachReplyNeverWaitsForAPause() {
        // Its whole queue of one comes at once, so no batch is ever more than one.
        let result = serve(Client(depth: 1, nanosecondsPerReply: 5_000), requests: 100_000)
        #expect(result.pauses == 0)
    }

    @Test(arguments: [2, 4, 8])
    func aShortQueueIsHardlyEverMadeToWait(depth: Int) {
        let result = serve(Client(depth: depth, nanosecondsPerReply: 5_000), requests: 1_000_000)
        #expect(result.dry * 1000 < result.answered)
    }

    @Test func requestsThatComeInGoodBatchesFindNoPause() {
        var gathering = NBDGathering()
        for _ in 0..<100 {
            gathering.learn(requests: NBDGathering.goodBatch, bytes: 0, clientRanDry: false)
            #expect(gathering.pauseNanoseconds == 0)
        }
    }

    @Test func aPauseIsBounded() {
        var gathering = NBDGathering()
        for _ in 0..<1000 { gathering.learn(requests: 2, bytes: 56, clientRanDry: false) }
        #expect(gathering.pauseNanoseconds == NBDGathering.pauseNanosecondsMax)
    }

    @Test func aDeepQueueThatRanDryIsNotTakenForAShortOne() {
        // As happens when the thread slept for longer than it wanted to.
        var gathering = NBDGathering()
        while gathering.pauseNanoseconds < NBDGathering.pauseNanosecondsMax / 2 {
            gathering.learn(requests: 12, bytes: 336, clientRanDry: false)
        }
        for _ in 0..<3 { gathering.learn(requests: 32, bytes: 896, clientRanDry: true) }
        for _ in 0..<10 { gathering.learn(requests: 12, bytes: 336, clientRanDry: false) }
        #expect(gathering.pauseNanoseconds > 0)
    }

    @Test func pausesComeBackWhenTheQueueHasBecomeDeep() {
        var gathering = NBDGathering()
        for _ in 0..<100 { gathering.learn(requests: 4, bytes: 112, clientRanDry: true) }
        for _ in 0..<100 { gathering.learn(requests: 4, bytes: 112, clientRanDry: false) }
        for _ in 0..<100_000 where gathering.pauseNanoseconds == 0 {
            gathering.learn(requests: 4, bytes: 112, clientRanDry: false)
        }
        #expect(gathering.pauseNanoseconds > 0)
    }
}
