import BlockCore
import Catalog
import Foundation
import TestSupport
import Testing

@testable import Volumes

/// What a crash leaves of images that are made or removed, and what the next start makes of it.
@Suite struct NewImageTests {
    private let fixture: VolumeFixture

    init() throws { fixture = try VolumeFixture() }

    private var image: String { fixture.directory.path("volumes/new.raw") }

    private func names() throws -> [String] {
        try HostDirectory.names(in: fixture.directory.path("volumes"))
    }

    private func leftovers(_ queue: CatalogQueue) async throws -> [LeftoverRecord] {
        try await queue.run { (catalog) throws(BlockError) in
            try catalog.reading { (snapshot) throws(CatalogError) in try snapshot.leftovers() }
        }
    }

    @Test func aNewVolumeLeavesNothingBeside() async throws {
        let (store, queue) = try await fixture.start()
        _ = try await store.create(.init(name: "new", lengthBytes: 1 << 20, format: .raw))
        #expect(try names() == ["new.raw"])
        #expect(try await leftovers(queue).isEmpty)
        try await store.remove("new", deletingFiles: true)
        #expect(try names() == [])
        #expect(try await leftovers(queue).isEmpty)
    }

    /// Every commit that making a volume needs fails once: afterwards the name is free.
    @Test(arguments: 1...4)
    func aFailedCommitLeavesTheNameFree(commit: Int) async throws {
        let (store, queue) = try await fixture.start()
        fixture.commitFailure.fail(commit)
        let specification = VolumeSpecification(name: "new", lengthBytes: 1 << 20, format: .raw)
        let volume = try? await store.create(specification)
        // Of its commits, the last one only forgets the record.
        #expect((volume != nil) == (commit >= 4), "commit \(commit)")
        try await NewImage.sweep(queue)
        #expect(try names() == (volume == nil ? [] : ["new.raw"]))
        if volume == nil { _ = try await store.create(specification) }
        #expect(try names() == ["new.raw"])
        #expect(try await leftovers(queue).isEmpty)
    }

    @Test func anImageWhoseVolumeNeverCameToBeIsRemovedAtTheNextStart() async throws {
        let (_, queue) = try await fixture.start()
        try HostDirectory.create(fixture.directory.path("volumes"))
        // As a crash between the second name and the volume leaves it.
        _ = try await NewImage(at: image, queue: queue) { (path) throws(BlockError) in
            try HostDirectory.replaceFile(path, with: [1])
        }
        #expect(try names().count == 2)
        try await NewImage.sweep(queue)
        try await NewImage.sweep(queue)
        #expect(try names() == [])
        #expect(try await leftovers(queue).isEmpty)
    }

    @Test func whatTheAgentDidNotMakeStays() async throws {
        let (store, queue) = try await fixture.start()
        try HostDirectory.create(fixture.directory.path("volumes"))
        try HostDirectory.replaceFile(image, with: [7])
        // A name that is taken is refused, and nothing happens to the file.
        await #expect(throws: BlockError.self) {
            try await store.create(
                .init(name: "new", lengthBytes: 1 << 20, format: .raw, path: image))
        }
        // A record of a crash between the record and the image.
        try await queue.change { (transaction) throws(CatalogError) in
            try transaction.insertLeftover(
                LeftoverRecord(path: image + ".1.tmp", finalPath: image))
            try transaction.insertLeftover(
                LeftoverRecord(path: image, fileIdentity: "another file"))
        }
        try await NewImage.sweep(queue)
        #expect(try HostDirectory.readFile(image, limitBytes: 10) == [7])
        #expect(try await leftovers(queue).isEmpty)
    }

    @Test func theImageOfARemovedVolumeGoesAtTheNextStart() async throws {
        let (store, queue) = try await fixture.start()
        let volume = try await store.create(
            .init(name: "new", lengthBytes: 1 << 20, format: .raw))
        try await volume.close()
        let records = try await store.records()
        let (record, nodes) = try #require(records.first { $0.volume.name == "new" })
        // As a crash between the removal from the catalog and that of the file leaves it.
        let leftover = try #require(NewImage.leftover(of: nodes[0]))
        try await queue.change { (transaction) throws(CatalogError) in
            try transaction.deleteVolume(record.id)
            try transaction.insertLeftover(leftover)
        }
        try await NewImage.sweep(queue)
        #expect(try names() == [])
    }
}
