import BlockCore
import Catalog
import Foundation
import Synchronization
import TestSupport
import Testing

@testable import Jobs
@testable import Volumes

/// Commits of images that cannot be read.
@Suite struct CommitFaultTests {
    @Test(arguments: [ErrorPolicy.report, .ignore, .stop, .enospc])
    func aCommitMeetsReadErrorsAsItsPolicySays(policy: ErrorPolicy) async throws {
        let directory = try TemporaryDirectory()
        let paths = ["top", "middle", "base"].map { directory.path($0) }
        let length = 4 << 20
        try Tool.check(["qemu-img", "create", "-q", "-f", "raw", paths[2], "\(length)"])
        for (path, backing, format) in [(paths[1], paths[2], "raw"), (paths[0], paths[1], "qcow2")]
        {
            try Tool.check(
                ["qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", format, path])
        }
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write -P 3 1M 2M", paths[1]])
        let opened = try ImageOpener.open(
            path: paths[0], format: .qcow2, readOnly: false, pool: .guest)
        var nodes = opened.nodes
        let middle = FaultDevice(nodes[1].device)
        await nodes[0].backing?.attach(middle)
        nodes[1].device = middle
        let volume = try await VolumeOpening.create(
            name: "disk", chain: ImageChain(nodes: nodes), lengthBytes: UInt64(length),
            isOwned: false, durability: .power,
            queue: CatalogQueue(catalog: try Catalog(directory: directory.path)))
        let before = try await volume.bytes(at: 0, length)

        let log = EventLog()
        let jobs = JobStore(
            report: { event in log.all.withLock { $0.append(event) } }, record: { _ in })
        let claim = "test"
        try await volume.claimImages(paths, for: claim, type: "commit")
        middle.fail(.read, lasting: policy != .ignore)
        if policy == .ignore { middle.fail(.read, number: 3) }
        let job = try await jobs.start(
            JobOptions(
                type: .commit, device: "disk", autoDismiss: false, onSourceError: policy,
                onTargetError: policy),
            CommitJob(
                ChainSegment(of: volume, below: 0, above: 2), into: paths[2], claim: claim))
        if policy == .stop {
            while job.status != .paused { try await Task.sleep(for: .milliseconds(5)) }
            #expect(job.ioStatus == .failed)
            middle.heal()
            try await jobs.resume(job.id)
        }
        await job.wait()
        middle.heal()
        #expect(log.errorCount > 0)
        let isDone = policy == .ignore || policy == .stop
        #expect((job.error == nil) == isDone)
        #expect(volume.imagePaths == (isDone ? [paths[0], paths[2]] : paths))
        #expect(try await volume.bytes(at: 0, length) == before)
        // Whatever came of it, the images are others' again, and another one can take place.
        try await volume.claimImages(volume.imagePaths, for: claim, type: "commit")
        volume.releaseImages(of: claim)
        try await volume.close()
        try Tool.check(["qemu-img", "check", "-q", paths[0]])
    }
}
