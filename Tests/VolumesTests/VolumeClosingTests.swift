import BlockCore
import TestSupport
import Testing

@testable import Volumes

/// How volumes end that cannot be closed.
@Suite struct VolumeClosingTests {
    @Test func whatCannotBeClosedForRemovalHoldsUpNeitherTheAgentNorItsRemoval() async throws {
        let fixture = try VolumeFixture()
        let (store, _) = try await fixture.start()
        _ = try await store.add("disk", path: fixture.imagePath, format: .raw)
        fixture.commitFailure.fail(1)
        await #expect(throws: BlockError.self) {
            try await store.remove("disk", deletingFiles: false)
        }
        #expect(await store.volumes().isEmpty)
        #expect(await store.unavailable().map(\.name) == ["disk"])
        try await expectEnd { _ = await store.closeAll() }
        try await store.remove("disk", deletingFiles: false)
        #expect(await store.unavailable().isEmpty)
        _ = try await store.add("disk", path: fixture.imagePath, format: .raw)
        #expect(await store.closeAll().isEmpty)
    }

    @Test func aVolumeIsRemovedOnce() async throws {
        let fixture = try VolumeFixture()
        let (store, _) = try await fixture.start()
        let volume = try await store.add("disk", path: fixture.imagePath, format: .raw).volume
        let hold = await volume.locks.acquire(ByteRange(offset: 0, lengthBytes: 1))
        let first = Task { try await store.remove("disk", deletingFiles: false) }
        try await Task.sleep(for: .milliseconds(100))
        let second = Task { try await store.remove("disk", deletingFiles: false) }
        try await Task.sleep(for: .milliseconds(100))
        volume.locks.release(hold)
        try await first.value
        try await expectEnd { await #expect(throws: BlockError.self) { try await second.value } }
    }

    @Test func aVolumeThatIsStuckKeepsNoOtherFromBeingClosed() async throws {
        let fixture = try VolumeFixture()
        let (store, _) = try await fixture.start()
        let stuck = try await store.add("a", path: fixture.imagePath, format: .raw).volume
        let other = fixture.directory.path("other.raw")
        try Tool.check(["qemu-img", "create", "-q", "-f", "raw", other, "1M"])
        _ = try await store.add("b", path: other, format: .raw)
        let hold = await stuck.locks.acquire(ByteRange(offset: 0, lengthBytes: 1))
        let closing = Task { await store.closeAll() }
        // Only who has been closed has given its image up.
        try await expectEnd {
            while (try? ImageLock(path: other, use: .writing)) == nil {}
        }
        stuck.locks.release(hold)
        #expect(await closing.value.isEmpty)
    }

    @Test func aWriteThatNeverEndsHoldsUpNoClose() async throws {
        let fixture = try VolumeFixture()
        let (volume, _) = try await fixture.startWithVolume()
        let hold = await volume.locks.acquire(ByteRange(offset: 0, lengthBytes: 1))
        let error = await #expect(throws: BlockError.self) {
            try await volume.close(within: .milliseconds(50))
        }
        #expect(error?.kind == .timedOut)
        volume.locks.release(hold)
        try await volume.close()
    }

    @Test func whatRefusesARemovalLeavesTheVolumeAsItWas() async throws {
        let fixture = try VolumeFixture()
        let (store, _) = try await fixture.start()
        let volume = try await store.add("disk", path: fixture.imagePath, format: .raw).volume
        let error = await #expect(throws: BlockError.self) {
            try await store.remove("disk", deletingFiles: true) { () throws(BlockError) in
                throw BlockError(.busy, "remove", on: "disk", detail: "a client came")
            }
        }
        #expect(error?.detail == "a client came")
        try await volume.put([1], at: 0)
        #expect(await store.volumes().map(\.name) == ["disk"])

        // Nobody is asked while something else is in the way.
        let asked = HostMutex(0)
        let hold = await volume.locks.acquire(ByteRange(offset: 0, lengthBytes: 1))
        let first = Task {
            try await store.remove("disk", deletingFiles: false) { asked.withLock { $0 += 1 } }
        }
        try await Task.sleep(for: .milliseconds(100))
        await #expect(throws: BlockError.self) {
            try await store.remove("disk", deletingFiles: false) { asked.withLock { $0 += 1 } }
        }
        #expect(asked.withLock { $0 } == 0)
        volume.locks.release(hold)
        try await first.value
        #expect(asked.withLock { $0 } == 1)
    }

    /// The file that was open is another one than the path names now, and not ours.
    @Test func closingMarksNoFileThatTookTheImagesPlace() async throws {
        let fixture = try VolumeFixture()
        let (store, _) = try await fixture.start()
        let image = fixture.directory.path("disk.qcow2")
        let other = fixture.directory.path("other.qcow2")
        for path in [image, other] {
            try Tool.check(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"])
        }
        let before = try readFile(other)
        let volume = try await store.add("disk", path: image, format: .qcow2).volume
        try await volume.put([1], at: 0)
        try HostDirectory.rename(other, to: image)
        #expect(await store.closeAll().isEmpty)
        #expect(try readFile(image) == before)
        // Nor is it trusted.
        let (again, _) = try await fixture.start()
        #expect(try await again.volume("disk").doubt != nil)
        #expect(await again.closeAll().isEmpty)
    }

    /// An NBD server has no locks that would tell one from the other.
    @Test func oneExportBecomesOneVolumeThoughTwoAskAtATime() async throws {
        let fixture = try VolumeFixture()
        let socket = fixture.directory.path("server.sock")
        let server = try ServerProcess(
            ["qemu-nbd", "-t", "-e", "8", "-f", "raw", "-k", socket, fixture.imagePath],
            socket: socket)
        defer { server.stop() }
        let (store, _) = try await fixture.start()
        let uri = "nbd+unix:///?socket=\(socket)"
        let added = await withTaskGroup(of: Bool.self) { group in
            for name in ["one", "two"] {
                group.addTask {
                    (try? await store.add(name, path: uri, format: .raw)) != nil
                }
            }
            return await group.reduce(into: 0) { $0 += $1 ? 1 : 0 }
        }
        #expect(added == 1)
        #expect(await store.volumes().count == 1)
        #expect(await store.closeAll().isEmpty)
    }

    /// Waits for `body` for some seconds.
    private func expectEnd(_ body: @escaping @Sendable () async -> Void) async throws {
        let isOver = HostMutex(false)
        let task = Task {
            await body()
            isOver.withLock { $0 = true }
        }
        let end = ContinuousClock.now + .seconds(5)
        while !isOver.withLock({ $0 }), ContinuousClock.now < end {
            try await Task.sleep(for: .milliseconds(10))
        }
        try #require(isOver.withLock({ $0 }))
        await task.value
    }
}
