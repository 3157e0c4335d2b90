import BlockCore
import DriverQcow2
import DriverRaw
import Foundation
import TestSupport
import Testing

@testable import Jobs
@testable import Volumes

/// What QEMU's tests of mirrors ask for; `QemuMirrorBehaviours.md` lists them.
@Suite struct MirrorBehaviourTests {
    private func complete(_ job: Job, _ lab: MirrorLab) async throws {
        try await lab.wait(job, for: .ready)
        try await lab.jobs.complete(job.id)
        await job.wait()
        #expect(job.error == nil)
    }

    @Test func aPausedMirrorStandsStillAndGoesOn() async throws {
        let lab = try await MirrorLab("paused", lengthBytes: 8 << 20)
        let job = try await lab.start(
            MirrorOptions(sync: .full, bufferBytes: 1 << 20), speedBytes: 4 << 20)
        while job.progress.currentBytes == 0 { try await Task.sleep(for: .milliseconds(1)) }
        try await lab.jobs.pause(job.id)
        try await lab.wait(job, for: .paused)
        let progress = job.progress.currentBytes
        #expect(progress < 8 << 20)
        try await lab.volume.put([1, 2, 3], at: 5 << 20)
        try await Task.sleep(for: .milliseconds(100))
        #expect(job.progress.currentBytes == progress && job.status == .paused)
        try await lab.jobs.setSpeed(0, of: job.id)
        try await lab.jobs.resume(job.id)
        try await lab.wait(job, for: .ready)
        try await lab.jobs.cancel(job.id, force: false)
        await job.wait()
        #expect(job.error == nil)
        #expect(try await lab.content(of: lab.target) == lab.content(of: lab.volume))
    }

    @Test(
        arguments: [4096, 65_536, 16 << 20] as [UInt64], [512, 65_536, 2 << 20] as [UInt64])
    func anyBufferGoesWithAnyClusters(bufferBytes: UInt64, clusterBytes: UInt64) async throws {
        let lab = try await MirrorLab(
            "buffer \(bufferBytes) \(clusterBytes)", target: .qcow2, clusterBytes: clusterBytes)
        let job = try await lab.start(
            MirrorOptions(sync: .full, granularityBytes: 65_536, bufferBytes: bufferBytes))
        try await lab.wait(job, for: .ready)
        try await lab.volume.put([UInt8](repeating: 3, count: 70_000), at: 1_000_001)
        try await complete(job, lab)
        #expect(try await lab.content(of: lab.target) == lab.content(of: lab.disk))
        try await lab.volume.close()
        try Tool.check(["qemu-img", "check", "-q", lab.targetPath])
    }

    @Test(
        arguments: [FaultDevice.Operation.read, .write],
        [ErrorPolicy.report, .ignore, .stop, .enospc])
    func aFailureIsReportedIgnoredOrWaitedFor(
        operation: FaultDevice.Operation, policy: ErrorPolicy
    ) async throws {
        let lab = try await MirrorLab("policy \(operation) \(policy)")
        let device = operation == .read ? lab.disk : lab.target
        let isFull = policy == .enospc
        device.fail(
            operation, number: 2, with: BlockError(isFull ? .noSpace : .io, "fail", on: "test"))
        let job = try await lab.start(
            MirrorOptions(sync: .full, bufferBytes: 65_536), onError: policy)
        switch policy {
        case .report:
            await job.wait()
            #expect(job.error != nil)
            #expect(lab.endings.completed == 1 && lab.endings.ready == 0)
            return
        case .stop, .enospc:
            try await lab.wait(job, for: .paused)
            #expect(job.ioStatus == (isFull ? .nospace : .failed) && job.isPaused)
            try await lab.jobs.resume(job.id)
        default: break
        }
        try await complete(job, lab)
        #expect(lab.events.errorCount == 1)
        #expect(try await lab.content(of: lab.target) == lab.content(of: lab.disk))
    }

    struct Chain: CustomStringConvertible, Sendable {
        var sync: MirrorSync
        var mode = NewImageMode.absolutePaths
        /// What the header of a target that is there names.
        var named: String?
        var backing = TargetBacking.none
        var expected: [String]

        var description: String { "\(sync) \(mode) \(named ?? "-")" }
    }

    static let chains = [
        Chain(sync: .full, expected: ["new"]),
        Chain(sync: .above(1), backing: .ofSource(1), expected: ["new", "base"]),
        Chain(sync: .none, backing: .ofSource(0), expected: ["new", "top", "base"]),
        Chain(sync: .full, mode: .existing, expected: ["new"]),
        Chain(sync: .full, mode: .existing, named: "base", expected: ["new", "base"]),
        Chain(sync: .above(1), mode: .existing, named: "base", expected: ["new", "base"]),
        Chain(
            sync: .above(1), mode: .relativePaths, backing: .ofSource(1),
            expected: ["new", "base"]),
    ]

    /// What is behind a target once it has been completed, at once and after a restart.
    @Test(arguments: chains)
    func theChainAfterAPivotIsThatOfSyncAndMode(chain: Chain) async throws {
        let lab = try await MirrorLab("chain \(chain)")
        let store = VolumeStore(queue: lab.queue, stateDirectory: lab.directory.path)
        func path(_ name: String) -> String { lab.directory.path("\(name).qcow2") }
        let volume = try await store.create(
            VolumeSpecification(
                name: "v", lengthBytes: 2 << 20, format: .qcow2, path: path("base")))
        var random = lab.seed
        try await volume.put(random.bytes(1 << 20), at: 100_000)
        try await store.snapshot("v", to: path("top"))
        try await volume.put(random.bytes(300_000), at: 50_000)
        if chain.mode == .existing {
            try Qcow2Device.create(
                path: path("new"), lengthBytes: 2 << 20,
                backing: chain.named.map { Qcow2Backing(name: path($0), format: "qcow2") })
        }
        let target = try await store.openTarget(
            TargetSpecification(
                path: path("new"), format: .qcow2, mode: chain.mode, backing: chain.backing,
                isPartial: chain.sync != .full), for: volume)
        let body = try await MirrorJob(
            of: volume, to: target, jobID: "m", options: MirrorOptions(sync: chain.sync))
        let job = try await lab.jobs.start(
            JobOptions(id: "m", type: .mirror, device: "v", autoDismiss: false), body)
        try await lab.wait(job, for: .ready)
        try await volume.put(random.bytes(1000), at: 1_500_000)
        let content = try await volume.bytes(at: 0, 2 << 20)
        try await complete(job, lab)
        #expect(volume.imagePaths == chain.expected.map(path))
        #expect(try await volume.bytes(at: 0, 2 << 20) == content)
        try await volume.close()
        let again = VolumeStore(queue: lab.queue, stateDirectory: lab.directory.path)
        try await again.openAll()
        let reopened = try await again.volume("v")
        #expect(reopened.imagePaths == chain.expected.map(path))
        #expect(try await reopened.bytes(at: 0, 2 << 20) == content)
        try await reopened.close()
        try Tool.check(["qemu-img", "check", "-q", path("new")])
    }

    /// An overlay that reaches beyond what it is over.
    @Test(arguments: [MirrorSync.full, .above(1)])
    func anOverlayLongerThanItsBackingIsMirrored(sync: MirrorSync) async throws {
        let lab = try await MirrorLab("longer \(sync)")
        let store = VolumeStore(queue: lab.queue, stateDirectory: lab.directory.path)
        let (base, top) = (lab.directory.path("base.raw"), lab.directory.path("top.qcow2"))
        var random = lab.seed
        try Data(random.bytes(1 << 20)).write(to: URL(fileURLWithPath: base))
        try Tool.check([
            "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, top, "2M",
        ])
        let volume = try await store.add("v", path: top, format: .qcow2).volume
        try await volume.put(random.bytes(1000), at: 1_700_000)
        let target = try await store.openTarget(
            TargetSpecification(
                path: lab.directory.path("new.qcow2"), format: .qcow2,
                backing: sync == .full ? .none : .ofSource(1), isPartial: sync != .full),
            for: volume)
        let body = try await MirrorJob(
            of: volume, to: target, jobID: "m", options: MirrorOptions(sync: sync))
        let job = try await lab.jobs.start(
            JobOptions(id: "m", type: .mirror, device: "v", autoDismiss: false), body)
        let content = try await volume.bytes(at: 0, 2 << 20)
        try await complete(job, lab)
        #expect(try await volume.bytes(at: 0, 2 << 20) == content)
        try await volume.close()
    }

    @Test func neitherSideIsResizedWhileItIsMirrored() async throws {
        let lab = try await MirrorLab("resized")
        let store = VolumeStore(queue: lab.queue, stateDirectory: lab.directory.path)
        let other = try await store.create(
            VolumeSpecification(
                name: "other", lengthBytes: 2 << 20, format: .raw,
                path: lab.directory.path("other.raw")))
        let job = try await lab.start(
            MirrorOptions(sync: .full), target: try TargetImage(other, for: lab.volume))
        try await lab.wait(job, for: .ready)
        for volume in [lab.volume, other] {
            let error = await #expect(throws: BlockError.self) {
                try await volume.resize(to: 4 << 20)
            }
            #expect(error?.kind == .busy)
        }
        // Nor is the target another's.
        #expect(throws: BlockError.self) { _ = try TargetImage(other, for: lab.volume) }
        await #expect(throws: BlockError.self) {
            try await store.remove("other", deletingFiles: false)
        }
        try await lab.jobs.cancel(job.id, force: false)
        await job.wait()
        try await other.resize(to: 4 << 20)
        try await other.close()
    }
}
