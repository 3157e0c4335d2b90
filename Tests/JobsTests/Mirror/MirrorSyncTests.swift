import BlockCore
import DriverQcow2
import DriverRaw
import Foundation
import TestSupport
import Testing

@testable import Jobs
@testable import Volumes

/// What a mirror copies, and what it leaves in bitmaps.
@Suite struct MirrorSyncTests {
    /// A full mirror in the background, which is ended without a pivot.
    private func finish(_ job: Job, _ lab: MirrorLab) async throws {
        try await lab.wait(job, for: .ready)
        try await lab.jobs.cancel(job.id, force: false)
        await job.wait()
        #expect(job.error == nil)
    }

    @Test func aFullMirrorOfASparseVolumeWritesNoZeroes() async throws {
        let lab = try await MirrorLab("sparse", lengthBytes: 64 << 20, isFull: false)
        try await lab.volume.put([UInt8](repeating: 5, count: 100_000), at: 40 << 20)
        let job = try await lab.start(MirrorOptions(sync: .full))
        try await finish(job, lab)
        #expect(try await lab.content(of: lab.target) == lab.content(of: lab.volume))
        // But for the rest of the last granule.
        #expect(lab.target.count(.zero) <= 1)
        guard case .mirror(let outcome)? = job.result else { return #expect(Bool(false)) }
        #expect(outcome.sentBytes <= 3 << 16)
    }

    @Test func whatWasThereInAnOldTargetIsGone() async throws {
        let lab = try await MirrorLab("old target", isPartial: true)
        try await lab.target.base.put([UInt8](repeating: 9, count: 2 << 20), at: 0)
        let job = try await lab.start(MirrorOptions(sync: .full))
        try await finish(job, lab)
        #expect(try await lab.content(of: lab.target) == lab.content(of: lab.volume))
    }

    @Test func noneCopiesWhatIsWrittenFromThenOn() async throws {
        let lab = try await MirrorLab("none")
        let job = try await lab.start(MirrorOptions(sync: .none, granularityBytes: 4096))
        try await lab.wait(job, for: .ready)
        try await lab.volume.put([1, 2, 3], at: 100_000)
        try await finish(job, lab)
        var expected = [UInt8](repeating: 0, count: 2 << 20)
        let source = try await lab.content(of: lab.volume)
        expected.replaceSubrange(98_304..<102_400, with: source[98_304..<102_400])
        #expect(try await lab.content(of: lab.target) == expected)
    }

    enum Ending: String, CaseIterable { case success, simulatedFailure, failureInBetween }

    /// What the bitmap has marked after each step: writes before, a failure or none, writes meanwhile
    /// and after.
    @Test(arguments: MirrorBitmapMode.allCases, Ending.allCases)
    func aBitmapIsSettledByItsMode(mode: MirrorBitmapMode, ending: Ending) async throws {
        let lab = try await MirrorLab("bitmap \(mode) \(ending)", lengthBytes: 4 << 20)
        let granule = 65_536
        try await lab.volume.addBitmap("changes", granularityBytes: UInt64(granule))
        // Far apart, so that each is copied by itself, one after the other.
        let first = [0, 8, 16, 24]
        for number in first { try await lab.volume.put([1], at: number * granule) }
        if ending == .failureInBetween { lab.target.fail(.write, number: 3, lasting: true) }
        let job = try await lab.start(
            MirrorOptions(sync: .bitmap("changes", mode), bufferBytes: UInt64(granule)),
            autoFinalize: false)
        #expect(lab.volume.bitmapStatuses()[0].isBusy == (mode != .never))
        if ending == .failureInBetween {
            await job.wait()
            #expect(job.error != nil)
        } else {
            try await lab.wait(job, for: .ready)
            let sent = try await lab.content(of: lab.target)
            let source = try await lab.content(of: lab.volume)
            for number in 0..<(4 << 20) / granule {
                let range = number * granule..<(number + 1) * granule
                let isSent = first.contains(number)
                #expect(isSent ? sent[range] == source[range] : sent[range].allSatisfy { $0 == 0 })
            }
            try await lab.volume.put([1], at: 32 * granule)
            try await lab.jobs.cancel(job.id, force: false)
            try await lab.wait(job, for: .pending)
            try await lab.volume.put([1], at: 40 * granule)
            if ending == .simulatedFailure {
                try await lab.jobs.cancel(job.id)
            } else {
                try await lab.jobs.finalize(job.id)
            }
            await job.wait()
            #expect((job.error == nil) == (ending == .success))
        }
        try await lab.volume.put([1], at: 48 * granule)
        let marked = try lab.volume.dirtyRuns(
            ofBitmap: "changes", in: lab.volume.wholeRange, limit: .max
        ).filter(\.isDirty).flatMap { run in
            stride(from: run.range.offset, to: run.range.end, by: granule).map { Int($0) / granule }
        }
        let meanwhile = ending == .failureInBetween ? [] : [32, 40]
        let expected: [Int] =
            switch (mode, ending) {
            case (.never, _), (.onSuccess, .simulatedFailure), (.onSuccess, .failureInBetween):
                first + meanwhile + [48]
            case (.onSuccess, .success), (.always, .success): [48]
            // What the target got is not marked any more, and all else is.
            case (.always, .simulatedFailure): [40, 48]
            case (.always, .failureInBetween): [16, 24, 48]
            }
        #expect(marked == expected)
        let status = lab.volume.bitmapStatuses()[0]
        #expect(!status.isBusy && status.isRecording)
    }

    /// A diff that has no backing yet: no part of a cluster may be there without the rest.
    @Test(arguments: [CopyMode.background, .writeBlocking], [UInt64(65_536), 1 << 20])
    func aDiffWithoutBackingHasWholeClusters(mode: CopyMode, clusterBytes: UInt64) async throws {
        let lab = try await MirrorLab("diff \(mode) \(clusterBytes)", lengthBytes: 3 << 20)
        try await lab.volume.addBitmap("changes", granularityBytes: 4096)
        let base = lab.directory.path("base.raw")
        try Data(try await lab.content(of: lab.volume)).write(to: URL(fileURLWithPath: base))
        let diff = lab.directory.path("diff.qcow2")
        try Qcow2Device.create(path: diff, lengthBytes: 3 << 20, clusterBytes: clusterBytes)
        let store = VolumeStore(queue: lab.queue, stateDirectory: lab.directory.path)
        let target = try await store.openTarget(
            TargetSpecification(path: diff, format: .qcow2, mode: .existing, isPartial: true),
            for: lab.volume)
        try await lab.volume.put([7], at: 10_000)
        // Zeroes have to hide what is below them.
        try await lab.volume.writeZeroes(
            ByteRange(offset: 1 << 20, lengthBytes: 1 << 20), mayUnmap: true)
        let guests = try await lab.guests()
        try await lab.whileAtWork(guests) {
            let job = try await lab.start(
                MirrorOptions(sync: .bitmap("changes", .onSuccess), copyMode: mode), target: target)
            try await lab.wait(job, for: .ready)
            try await Task.sleep(for: .milliseconds(30))
            try await lab.jobs.cancel(job.id, force: false)
            await job.wait()
            #expect(job.error == nil)
        }
        try Tool.check(["qemu-img", "check", diff])
        try Tool.check(["qemu-img", "rebase", "-u", "-b", base, "-F", "raw", diff])
        let flat = lab.directory.path("flat.raw")
        try Tool.check(["qemu-img", "convert", "-O", "raw", diff, flat])
        let found = try [UInt8](Data(contentsOf: URL(fileURLWithPath: flat)))
        for (number, guest) in guests.enumerated() {
            #expect(guest.moment(of: found) != nil, "guest \(number)")
        }
    }

    @Test(arguments: [MirrorSync.none, .above(1)])
    func aPivotToAnOverlayOfTheSourcesImages(sync: MirrorSync) async throws {
        let lab = try await MirrorLab("overlay \(sync)", lengthBytes: 2 << 20)
        let store = VolumeStore(queue: lab.queue, stateDirectory: lab.directory.path)
        try await store.openAll()
        let path = lab.directory.path("v.qcow2")
        let volume = try await store.create(
            VolumeSpecification(name: "v", lengthBytes: 2 << 20, format: .qcow2, path: path))
        var random = lab.seed
        try await volume.put(random.bytes(1 << 20), at: 100_000)
        try await store.snapshot("v", to: lab.directory.path("v2.qcow2"))
        try await volume.put(random.bytes(300_000), at: 50_000)
        let target = try await store.openTarget(
            TargetSpecification(
                path: lab.directory.path("new.qcow2"), format: .qcow2,
                backing: .ofSource(sync == .none ? 0 : 1), isPartial: true), for: volume)
        let guest = MirrorGuest(
            volume.wholeRange, before: try await volume.bytes(at: 0, 2 << 20))
        try await lab.whileAtWork([]) {
            async let work: Void = guest.run(volume, lab.seed)
            let body = try await MirrorJob(
                of: volume, to: target, jobID: "m", options: MirrorOptions(sync: sync))
            let job = try await lab.jobs.start(
                JobOptions(id: "m", type: .mirror, device: "v", autoDismiss: false), body)
            try await lab.wait(job, for: .ready)
            try await lab.jobs.complete("m")
            await job.wait()
            #expect(job.error == nil)
            guest.stop()
            try await work
        }
        #expect(
            volume.imagePaths.map { ($0 as NSString).lastPathComponent }
                == (sync == .none
                    ? ["new.qcow2", "v2.qcow2", "v.qcow2"] : ["new.qcow2", "v.qcow2"]))
        let content = try await volume.bytes(at: 0, 2 << 20)
        #expect(guest.isFinal(content))
        try await volume.close()
        let again = VolumeStore(queue: lab.queue, stateDirectory: lab.directory.path)
        try await again.openAll()
        let reopened = try await again.volume("v")
        #expect(try await reopened.bytes(at: 0, 2 << 20) == content)
        try await reopened.close()
        try Tool.check(["qemu-img", "check", reopened.imagePaths[0]])
    }

    @Test func aMirrorIntoAVolumeKeepsThatVolumesBitmaps() async throws {
        let lab = try await MirrorLab("volume")
        let store = VolumeStore(queue: lab.queue, stateDirectory: lab.directory.path)
        let other = try await store.create(
            VolumeSpecification(
                name: "other", lengthBytes: 2 << 20, format: .raw,
                path: lab.directory.path("other.raw")))
        try await other.addBitmap("seen", granularityBytes: 65_536)
        let job = try await lab.start(
            MirrorOptions(sync: .full), target: try TargetImage(other, for: lab.volume))
        try await finish(job, lab)
        #expect(try await lab.content(of: other) == lab.content(of: lab.volume))
        #expect(other.bitmapStatuses()[0].dirtyBytes > 1 << 20)
    }

    @Test func targetsOfAnotherLengthAreRefused() async throws {
        let lab = try await MirrorLab("lengths")
        let store = VolumeStore(queue: lab.queue, stateDirectory: lab.directory.path)
        for length: UInt64 in [1 << 20, 3 << 20] {
            let path = lab.directory.path("t\(length).raw")
            try RawDevice.create(path: path, lengthBytes: length)
            await #expect(throws: BlockError.self) {
                _ = try await store.openTarget(
                    TargetSpecification(path: path, format: .raw, mode: .existing),
                    for: lab.volume)
            }
        }
    }
}
