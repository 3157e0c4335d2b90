import BlockCore
import Foundation
import TestSupport
import Testing

@testable import Jobs
@testable import Volumes

/// Mirrors of a volume whose guests never pause.
@Suite struct MirrorUnderGuestsTests {
    struct Way: CustomStringConvertible, Sendable {
        var format = ImageFormat.raw
        var mode = CopyMode.background
        var pivots = true
        var granularityBytes: UInt64 = 65_536
        var lengthBytes: UInt64 = 2 << 20

        var description: String {
            "\(format) \(mode) \(pivots ? "complete" : "cancel") \(granularityBytes) \(lengthBytes)"
        }
    }

    static let ways = [
        Way(), Way(pivots: false), Way(mode: .writeBlocking),
        Way(mode: .writeBlocking, pivots: false, granularityBytes: 4096),
        Way(format: .qcow2), Way(format: .qcow2, mode: .writeBlocking, granularityBytes: 512),
        Way(format: .qcow2, pivots: false, granularityBytes: 1 << 20),
        Way(pivots: false, lengthBytes: 1_500_007),
        Way(granularityBytes: 4096, lengthBytes: 1_500_007),
        Way(format: .qcow2, mode: .writeBlocking, pivots: false, lengthBytes: 1_500_007),
    ]

    @Test(arguments: ways)
    func atTheEndsInstantSourceAndTargetAreEqual(way: Way) async throws {
        let lab = try await MirrorLab(
            "under guests \(way)", lengthBytes: way.lengthBytes, target: way.format)
        let guests = try await lab.guests()
        try await lab.whileAtWork(guests) {
            let job = try await lab.start(
                MirrorOptions(
                    sync: .full, copyMode: way.mode, granularityBytes: way.granularityBytes))
            try await lab.wait(job, for: .ready)
            let (current, total) = job.progress
            #expect(current == total || way.mode == .background)
            try await Task.sleep(for: .milliseconds(30))
            if way.pivots {
                try await lab.jobs.complete(job.id)
            } else {
                try await lab.jobs.cancel(job.id, force: false)
            }
            await job.wait()
            #expect(job.error == nil)
        }
        let endings = lab.endings
        #expect(endings.completed == 1 && endings.cancelled == 0 && endings.ready == 1)
        #expect(lab.volume.workingBitmaps.isEmpty)
        #expect(lab.volume.imagePaths[0].hasPrefix(lab.directory.path("target")) == way.pivots)

        let now = try await lab.content(of: lab.volume)
        // The image that nobody writes any more is that of the instant.
        let frozen = try await lab.content(of: way.pivots ? lab.disk : lab.target)
        for (number, guest) in guests.enumerated() {
            let moment = guest.moment(of: frozen)
            #expect(moment != nil, "guest \(number): \(guest.count) requests")
            #expect(guest.isFinal(now), "guest \(number)")
        }
    }

    @Test func theCopyModeChangesBothWaysWhileGuestsWrite() async throws {
        let lab = try await MirrorLab("switch")
        let guests = try await lab.guests()
        try await lab.whileAtWork(guests) {
            let job = try await lab.start(MirrorOptions(sync: .full, granularityBytes: 4096))
            for number in 0..<20 {
                try await Task.sleep(for: .milliseconds(10))
                try await lab.jobs.change(
                    .copyMode(number % 2 == 0 ? .writeBlocking : .background), of: job.id)
            }
            try await lab.wait(job, for: .ready)
            for number in 0..<20 {
                try await Task.sleep(for: .milliseconds(10))
                try await lab.jobs.change(
                    .copyMode(number % 2 == 0 ? .writeBlocking : .background), of: job.id)
            }
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
    }

    /// In write-blocking mode the target is in step at every moment at which nothing is in flight.
    @Test func aWriteThatWasAnsweredIsInTheTarget() async throws {
        let lab = try await MirrorLab("write-blocking")
        let job = try await lab.start(
            MirrorOptions(sync: .full, copyMode: .writeBlocking, granularityBytes: 65_536))
        try await lab.wait(job, for: .ready)
        lab.target.pause(.write)
        lab.target.release(.write)
        var random = lab.seed
        for number in 0..<50 {
            let count = Int.random(in: 1...3000, using: &random)
            let offset = Int.random(in: 0...(1 << 20), using: &random)
            if number % 5 == 0 {
                // Shorter than the granularity.
                try await lab.volume.writeZeroes(
                    ByteRange(offset: UInt64(offset), lengthBytes: UInt64(count)), mayUnmap: true)
            } else {
                try await lab.volume.put(random.bytes(count), at: offset)
            }
            #expect(
                try await lab.target.bytes(at: offset, count)
                    == lab.volume.bytes(at: offset, count))
        }
        try await lab.jobs.cancel(job.id, force: false)
        await job.wait()
        #expect(job.error == nil)
        #expect(try await lab.content(of: lab.target) == lab.content(of: lab.volume))
    }

    @Test(arguments: [false, true])
    func aForcedCancelLeavesTheVolumeAsItWas(isReady: Bool) async throws {
        let lab = try await MirrorLab("forced \(isReady)")
        let guests = try await lab.guests()
        try await lab.whileAtWork(guests) {
            let job = try await lab.start(MirrorOptions(sync: .full))
            if isReady { try await lab.wait(job, for: .ready) }
            try await lab.jobs.cancel(job.id, force: true)
            await job.wait()
            #expect(job.isCancelled)
        }
        #expect(lab.volume.workingBitmaps.isEmpty)
        let endings = lab.endings
        #expect(endings.completed == 0 && endings.cancelled == 1)
        let now = try await lab.content(of: lab.volume)
        #expect(lab.volume.imagePaths == [lab.directory.path("disk.raw")])
        for guest in guests { #expect(guest.isFinal(now)) }
    }
}
