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
