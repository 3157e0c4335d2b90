import BlockCore
import Catalog
import TestSupport
import Testing

@testable import Volumes

/// Several changes of bitmaps at one instant.
@Suite struct QuietTransactionTests {
    @Test func eachStepSeesWhatThoseBeforeItHaveDone() async throws {
        let fixture = try VolumeFixture()
        let (volume, _) = try await fixture.startWithVolume()
        try await volume.write([1], at: 0)
        _ = try await QuietTransaction.run([
            .change(volume, .add("copy", granularityBytes: 64 << 10, isRecording: false)),
            .change(
                volume, .merge([BitmapLocation(volume: volume, name: "changes")], into: "copy")),
            .change(volume, .clear("changes")),
        ])
        try await volume.write([1], at: 1 << 20)
        let first = [ByteRange(offset: 0, lengthBytes: 64 << 10)]
        let second = [ByteRange(offset: 1 << 20, lengthBytes: 64 << 10)]
        #expect(try volume.dirtyRanges("copy") == first)
        #expect(try volume.dirtyRanges("changes") == second)
        let recovered = try await fixture.restartAfterCrash()
        #expect(try recovered.dirtyRanges("copy") == first)
        // The regions that were written since are dirty as a whole.
        #expect(try recovered.dirtyRanges("changes").allSatisfy { $0.offset >= 1 << 20 })
        try await volume.close()
    }

    /// Neither a step that is refused nor a commit that fails leaves anything of the others.
    @Test(arguments: [true, false])
    func noneHappensIfOneDoesNot(isRefused: Bool) async throws {
        let fixture = try VolumeFixture()
        let (volume, _) = try await fixture.startWithVolume()
        try await volume.addBitmap("other", isRecording: false)
        try await volume.write([1], at: 0)
        let before = try volume.dirtyRanges("changes")
        var steps: [QuietStep] = [
            .change(volume, .clear("changes")),
            .change(volume, .setRecording("changes", false)),
            .change(volume, .add("new", granularityBytes: nil, isRecording: true)),
            .change(volume, .remove("other")),
        ]
        if isRefused {
            steps.append(.change(volume, .clear("none")))
        } else {
            // The first commit is that of what had changed before.
            fixture.commitFailure.fail(2)
        }
        let given = steps
        let error = await #expect(throws: BlockError.self) {
            try await QuietTransaction.run(given)
        }
        #expect(error?.kind == (isRefused ? .notFound : .noSpace))
        #expect(volume.bitmapStatuses().map(\.name) == ["changes", "other"])
        #expect(volume.bitmapStatuses()[0].isRecording)
        #expect(try volume.dirtyRanges("changes") == before)
        try await volume.write([1], at: 4 << 20)
        let later = try await fixture.restartAfterCrash()
        #expect(later.bitmapStatuses().map(\.name) == ["changes", "other"])
        let ranges = try later.dirtyRanges("changes")
        for offset in [0, 4 << 20] as [UInt64] {
            #expect(ranges.contains { $0.contains(ByteRange(offset: offset, lengthBytes: 1)) })
        }
        try await volume.close()
    }

    @Test func nothingChangesWhileAWriteIsInFlight() async throws {
        func waits() async throws -> Bool {
            let fixture = try VolumeFixture()
            let (volume, _) = try await fixture.startWithVolume()
            let write = try #require(volume.locks.tryAcquire(ByteRange(offset: 0, lengthBytes: 1)))
            let change = Task {
                _ = try await QuietTransaction.run([
                    .change(volume, .setRecording("changes", false))
                ])
            }
            try await Task.sleep(for: .milliseconds(300))
            let hasWaited = volume.bitmapStatuses()[0].isRecording
            volume.locks.release(write)
            try await change.value
            #expect(!volume.bitmapStatuses()[0].isRecording)
            try await volume.close()
            return hasWaited
        }
        #expect(try await waits())
        // And it would be noticed.
        Mutant.active = .freezeWithoutDrain
        defer { Mutant.active = nil }
        #expect(try await !waits())
    }

    /// A client writes a number to one volume, waits, and then the same to the other. Whenever both
    /// bitmaps are cleared together, what is then dirty of the first is at least what is dirty of the
    /// second, and at most one ahead.
    @Test func twoVolumesChangeAtOneInstant() async throws {
        let fixture = try VolumeFixture()
        let (store, _) = try await fixture.start()
        try await makeFile(fixture.directory.path("second.raw"), fixture.lengthBytes)
        let first = try await store.add("disk", path: fixture.imagePath, format: .raw).volume
        let second = try await store.add(
            "second", path: fixture.directory.path("second.raw"), format: .raw
        ).volume
        for volume in [first, second] { try await volume.addBitmap("b", granularityBytes: 4096) }
        for _ in 0..<20 {
            let client = Task {
                var granule: UInt64 = 0
                while !Task.isCancelled {
                    try await first.write([1], at: granule % 2048 * 4096)
                    try await second.write([1], at: granule % 2048 * 4096)
                    granule += 1
                    await Task.yield()
                }
            }
            try await Task.sleep(for: .milliseconds(3))
            _ = try await QuietTransaction.run([
                .change(first, .setRecording("b", false)),
                .change(second, .setRecording("b", false)),
            ])
            client.cancel()
            try await client.value
            let counts = try [first, second].map { volume in
                try volume.dirtyRanges("b").reduce(0) { $0 + $1.lengthBytes } / 4096
            }
            #expect(counts[0] == counts[1] || counts[0] == counts[1] + 1, "\(counts)")
            _ = try await QuietTransaction.run(
                [first, second].flatMap {
                    [.change($0, .clear("b")), .change($0, .setRecording("b", true))]
                })
        }
        try await first.close()
        try await second.close()
    }

    /// Two snapshots, and something that fails at the instant, or before it, or whose commit does.
    @Test(arguments: ["settle", "change", "drain", "commit", "nothing"])
    func noVolumeGetsOtherImagesIfOneCannot(failing: String) async throws {
        let fixture = try VolumeFixture()
        let (store, _) = try await fixture.start()
        var volumes: [Volume] = []
        for name in ["one", "two", "three"] {
            let path = fixture.directory.path("\(name).raw")
            try await makeFile(path, fixture.lengthBytes)
            volumes.append(try await store.add(name, path: path, format: .raw).volume)
        }
        func overlay(_ name: String) -> String { fixture.directory.path("\(name).qcow2") }
        var actions: [QuietAction] = []
        for name in ["one", "two"] {
            actions.append(try await store.prepareSnapshot(name, to: overlay(name)).action)
        }
        let error = BlockError(.io, "do as told", on: "three")
        var last = QuietAction([
            QuietStep(
                "fail", of: volumes[2],
                settle: { (_) async throws(BlockError) in
                    if failing == "settle" { throw error }
                    return nil
                },
                change: { (_, _) in if failing == "change" { throw error } })
        ])
        last.drain = { () throws(BlockError) in if failing == "drain" { throw error } }
        actions.append(last)
        let given = actions
        if failing == "commit" { fixture.commitFailure.fail(1) }
        if failing == "nothing" {
            try await QuietTransaction.perform(given)
        } else {
            await #expect(throws: BlockError.self) { try await QuietTransaction.perform(given) }
        }
        for (volume, name) in zip(volumes, ["one", "two", "three"]) {
            let isChanged = failing == "nothing" && name != "three"
            let raw = fixture.directory.path("\(name).raw")
            #expect(volume.imagePaths == (isChanged ? [overlay(name), raw] : [raw]))
            #expect(HostDirectory.exists(overlay(name)) == isChanged)
            try await volume.write([1], at: 0)
        }
        // Nothing is claimed any more.
        if failing != "nothing" {
            for name in ["one", "two"] { try await store.snapshot(name, to: overlay(name)) }
        }
        for volume in volumes { try await volume.close() }
    }

    private func makeFile(_ path: String, _ lengthBytes: UInt64) async throws {
        let file = try HostFile(path: path, access: .create)
        try file.truncate(toBytes: lengthBytes)
    }
}
