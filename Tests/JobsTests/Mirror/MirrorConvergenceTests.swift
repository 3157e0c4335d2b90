import BlockCore
import TestSupport
import Testing

@testable import Jobs
@testable import Volumes

/// Guests that write faster than a mirror copies.
@Suite struct MirrorConvergenceTests {
    private static let lengthBytes: UInt64 = 32 << 20
    private static let speedBytes: UInt64 = 16 << 20

    private func start(_ lab: MirrorLab, converges: Bool) async throws -> Job {
        try await lab.start(
            MirrorOptions(sync: .full, autoConverge: converges, granularityBytes: 65_536),
            speedBytes: Self.speedBytes)
    }

    private func until(
        _ what: String, seconds: Int = 60, _ isThere: () -> Bool
    ) async throws {
        let end = ContinuousClock.now + .seconds(seconds)
        while !isThere() {
            try #require(ContinuousClock.now < end, "\(what) does not come")
            try await Task.sleep(for: .milliseconds(10))
        }
    }

    @Test func theJobShowsThatItIsOutrunAndBothRates() async throws {
        let lab = try await MirrorLab("outrun", lengthBytes: Self.lengthBytes)
        let guests = try await lab.guests()
        try await lab.whileAtWork(guests) {
            let job = try await start(lab, converges: false)
            try await until("the outrunning") { job.mirror?.isOutrun == true }
            let status = try #require(job.mirror)
            #expect(status.copyMode == .background && job.status == .running)
            // It copies as fast as it may, guests write faster.
            #expect(status.rates.copyingBytes > Self.speedBytes / 4)
            #expect(status.rates.copyingBytes < Self.speedBytes * 2)
            #expect(status.rates.dirtyingBytes > status.rates.copyingBytes / 2)
            // Somebody makes them wait, and it ends.
            try await lab.jobs.change(.copyMode(.writeBlocking), of: job.id)
            try await lab.jobs.setSpeed(0, of: job.id)
            try await lab.wait(job, for: .ready)
            #expect(job.mirror?.isOutrun == false)
            try await until("the synced state") { job.mirror?.isActivelySynced == true }
            try await lab.jobs.complete(job.id)
            await job.wait()
            #expect(job.error == nil)
        }
        let now = try await lab.content(of: lab.volume)
        for guest in guests { #expect(guest.isFinal(now)) }
    }

    @Test func itMakesThemWaitByItselfIfThatIsAskedFor() async throws {
        let lab = try await MirrorLab("converge", lengthBytes: Self.lengthBytes)
        let guests = try await lab.guests()
        try await lab.whileAtWork(guests) {
            let job = try await start(lab, converges: true)
            try await until("the switch") { job.mirror?.copyMode == .writeBlocking }
            try await lab.wait(job, for: .ready)
            try await lab.jobs.cancel(job.id, force: false)
            await job.wait()
            #expect(job.error == nil)
        }
        let frozen = try await lab.content(of: lab.target)
        for guest in guests { #expect(guest.moment(of: frozen) != nil) }
    }

    @Test func aMirrorThatKeepsUpIsNotOutrun() async throws {
        let lab = try await MirrorLab("keeps up", lengthBytes: Self.lengthBytes)
        let job = try await lab.start(MirrorOptions(sync: .full, autoConverge: true))
        try await lab.wait(job, for: .ready)
        for number in 0..<40 {
            try await lab.volume.put([UInt8](repeating: 1, count: 65_536), at: number * 65_536)
            try await Task.sleep(for: .milliseconds(20))
        }
        let status = try #require(job.mirror)
        #expect(status.copyMode == .background && !status.isOutrun && !status.isActivelySynced)
        try await lab.jobs.cancel(job.id, force: false)
        await job.wait()
        #expect(job.error == nil)
    }
}
