import BlockCore
import Foundation
import TestSupport
import Testing

@testable import Jobs
@testable import Volumes

/// Mirrors whose images, or catalog, fail.
@Suite struct MirrorFaultTests {
    @Test(arguments: [FaultDevice.Operation.read, .write], [CopyMode.background, .writeBlocking])
    func ignoredFailuresAreMadeGood(operation: FaultDevice.Operation, mode: CopyMode) async throws {
        let lab = try await MirrorLab("ignore \(operation) \(mode)")
        let device = operation == .read ? lab.disk : lab.target
        // A guest whose own reads fail would end.
        let guests = operation == .read ? [] : try await lab.guests()
        for number in [1, 2, 5] { device.fail(operation, number: number) }
        try await lab.whileAtWork(guests) {
            let job = try await lab.start(
                MirrorOptions(sync: .full, copyMode: mode, granularityBytes: 65_536),
                onError: .ignore)
            try await lab.wait(job, for: .ready)
            for number in [1, 7] { lab.target.fail(.write, number: number) }
            try await Task.sleep(for: .milliseconds(50))
            lab.target.heal()
            try await lab.jobs.complete(job.id)
            await job.wait()
            #expect(job.error == nil)
        }
        let frozen = try await lab.content(of: lab.disk)
        let now = try await lab.content(of: lab.volume)
        for guest in guests {
            #expect(guest.moment(of: frozen) != nil)
            #expect(guest.isFinal(now))
        }
        #expect(lab.events.errorCount > 0)
    }

    @Test(arguments: [CopyMode.background, .writeBlocking])
    func aTargetThatDiesFailsTheJobAndNoWriteOfAGuest(mode: CopyMode) async throws {
        let lab = try await MirrorLab("dies \(mode)")
        let guests = try await lab.guests()
        try await lab.whileAtWork(guests) {
            let job = try await lab.start(MirrorOptions(sync: .full, copyMode: mode))
            try await lab.wait(job, for: .ready)
            lab.target.fail(.write, lasting: true)
            try await lab.jobs.cancel(job.id, force: false)
            await job.wait()
            #expect(job.error != nil)
        }
        let now = try await lab.content(of: lab.volume)
        for guest in guests { #expect(guest.isFinal(now)) }
        #expect(lab.volume.imagePaths == [lab.directory.path("disk.raw")])
        #expect(lab.volume.workingBitmaps.isEmpty)
        let endings = lab.endings
        #expect(endings.completed == 1 && endings.cancelled == 0)
    }

    /// Guests wait once, for some seconds; then the mirror is one in the background until it is in
    /// step again. The copy that nobody waited for lands on nothing newer.
    @Test func guestsDoNotWaitForATargetThatDoesNotAnswer() async throws {
        let lab = try await MirrorLab("does not answer")
        let job = try await lab.start(MirrorOptions(sync: .full, copyMode: .writeBlocking))
        try await lab.wait(job, for: .ready)
        lab.target.pause(.write)
        let start = ContinuousClock.now
        try await lab.volume.put([1, 1], at: 100)
        let first = ContinuousClock.now - start
        #expect(first > .seconds(1) && first < .seconds(4))
        try await lab.volume.put([2, 2], at: 100)
        try await lab.volume.put([3, 3], at: 1_000_000)
        #expect(ContinuousClock.now - start - first < .seconds(1))
        lab.target.release(.write)
        while lab.volume.workingBitmaps.contains(where: { !$0.isInStep }) {
            try await Task.sleep(for: .milliseconds(5))
        }
        #expect(try await lab.target.bytes(at: 100, 2) == [2, 2])
        #expect(try await lab.target.bytes(at: 1_000_000, 2) == [3, 3])
        // They wait again: what is written is there at once.
        try await Task.sleep(for: .milliseconds(100))
        try await lab.volume.put([4, 4], at: 100)
        #expect(try await lab.target.bytes(at: 100, 2) == [4, 4])
        try await lab.jobs.cancel(job.id, force: false)
        await job.wait()
        #expect(job.error == nil)
        let source = try await lab.content(of: lab.volume)
        #expect(try await lab.content(of: lab.target) == source)
    }

    @Test func aMirrorThatIsGivenUpIsNotHeldUpByWhatNobodyWaitsFor() async throws {
        let lab = try await MirrorLab("given up")
        let job = try await lab.start(MirrorOptions(sync: .full, copyMode: .writeBlocking))
        try await lab.wait(job, for: .ready)
        lab.target.pause(.write)
        try await lab.volume.put([1, 1], at: 100)
        try await lab.jobs.cancel(job.id)
        // It ends without the target, which is closed when it answers.
        await job.wait()
        #expect(lab.volume.workingBitmaps.isEmpty)
        lab.target.release(.write)
        try await lab.volume.put([2, 2], at: 100)
    }

    @Test func aTargetThatCannotBeFlushedBecomesNoImage() async throws {
        let lab = try await MirrorLab("flush")
        let job = try await lab.start(MirrorOptions(sync: .full))
        try await lab.wait(job, for: .ready)
        lab.target.fail(.flush, lasting: true)
        try await lab.jobs.complete(job.id)
        await job.wait()
        #expect(job.error != nil)
        #expect(lab.volume.imagePaths == [lab.directory.path("disk.raw")])
        try await lab.volume.put([1, 2], at: 77)
        #expect(try await lab.disk.bytes(at: 77, 2) == [1, 2])
    }

    /// Whatever commit of a pivot fails, the volume goes on with the image that it had, or the one
    /// that it was to get.
    @Test(arguments: 1...2)
    func aCommitThatFailsLeavesTheVolumeOnOneOfItsImages(number: Int) async throws {
        let lab = try await MirrorLab("commit \(number)")
        let guests = try await lab.guests()
        try await lab.whileAtWork(guests) {
            let job = try await lab.start(MirrorOptions(sync: .full))
            try await lab.wait(job, for: .ready)
            // Guests announce nothing any more: all regions are in the log by now.
            lab.commits.fail(number)
            try await lab.jobs.complete(job.id)
            await job.wait()
            lab.commits.heal()
            let isPivoted = lab.volume.imagePaths != [lab.directory.path("disk.raw")]
            #expect(isPivoted == (job.error == nil))
        }
        let now = try await lab.content(of: lab.volume)
        for guest in guests { #expect(guest.isFinal(now)) }
    }

    @Test func aPausedJobHoldsUpNoGuest() async throws {
        let lab = try await MirrorLab("pause")
        let job = try await lab.start(MirrorOptions(sync: .full, copyMode: .writeBlocking))
        try await lab.wait(job, for: .ready)
        try await lab.jobs.pause(job.id)
        try await lab.wait(job, for: .standby)
        try await lab.volume.put([1, 2, 3], at: 500)
        #expect(try await lab.target.bytes(at: 500, 3) == [1, 2, 3])
        try await lab.jobs.resume(job.id)
        try await lab.wait(job, for: .ready)
        try await lab.jobs.complete(job.id)
        await job.wait()
        #expect(job.error == nil)
    }
}
