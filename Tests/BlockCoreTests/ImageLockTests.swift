import BlockCore
import Glibc
import TestSupport
import Testing

/// QEMU's tools are the judges of QEMU's locks, in both directions.
@Suite struct ImageLockTests {
    private let directory: TemporaryDirectory
    private var image: String { directory.path("disk.img") }

    init() throws { directory = try TemporaryDirectory() }

    private func makeImage(_ format: String) throws {
        try Tool.check(["qemu-img", "create", "-q", "-f", format, image, "1M"])
    }

    /// An NBD server of QEMU's that has an image open until it is stopped.
    private func serve(_ arguments: [String]) throws -> ServerProcess {
        let socket = directory.path("server.sock")
        return try ServerProcess(["qemu-nbd", "-t", "-k", socket] + arguments, socket: socket)
    }

    @Test(arguments: ["raw", "qcow2"])
    func toolsOfQEMUKeepAwayFromAnImageThatIsWritten(format: String) throws {
        try makeImage(format)
        let lock = try ImageLock(path: image, use: .writing)
        var refused = [["qemu-io", "-f", format, "-c", "write 0 4k", image]]
        if format == "qcow2" {
            // Of a raw image QEMU lets anybody read what somebody else writes.
            refused.append(["qemu-img", "info", "-f", format, image])
            refused.append(["qemu-io", "-r", "-f", format, "-c", "read 0 4k", image])
        }
        for arguments in refused {
            let result = try Tool.run(arguments)
            #expect(result.status != 0, "\(arguments)")
            #expect(result.errors.contains("lock"), "\(result.errors)")
        }
        lock.release()
        try Tool.check(["qemu-img", "info", "-f", format, image])
        try Tool.check(["qemu-io", "-f", format, "-c", "write 0 4k", image])
    }

    @Test func anImageThatIsNotLockedIsNoticed() throws {
        try makeImage("qcow2")
        func keepsOthersAway() throws -> Bool {
            let lock = try ImageLock(path: image, use: .writing)
            defer { lock.release() }
            return try Tool.run(["qemu-img", "info", "-f", "qcow2", image]).status != 0
        }
        #expect(try keepsOthersAway())
        Mutant.active = .openWithoutLock
        defer { Mutant.active = nil }
        #expect(try !keepsOthersAway())
    }

    @Test(arguments: ["raw", "qcow2"])
    func toolsOfQEMUReadWithUsWhatIsRead(format: String) throws {
        try makeImage(format)
        let lock = try ImageLock(path: image, use: .reading)
        try Tool.check(["qemu-img", "info", "-f", format, image])
        try Tool.check(["qemu-io", "-r", "-f", format, "-c", "read 0 4k", image])
        let write = try Tool.run(["qemu-io", "-f", format, "-c", "write 0 4k", image])
        #expect(write.status != 0 && write.errors.contains("lock"), "\(write.errors)")
        withExtendedLifetime(lock) {}
    }

    @Test(arguments: ["raw", "qcow2"])
    func anImageThatQEMUWritesIsRefusedByNameAndWithARemedy(format: String) throws {
        try makeImage(format)
        let server = try serve(["-f", format, image])
        for use in [ImageLock.Use.reading, .writing] {
            let error = #expect(throws: BlockError.self) {
                try ImageLock(path: image, use: use)
            }
            #expect(error?.kind == .busy && error?.operation == "lock" && error?.place == image)
            #expect(error?.description.contains("fuser -v \(image)") == true)
        }
        server.stop()
        _ = try ImageLock(path: image, use: .writing)
    }

    @Test func anImageThatQEMUReadsIsSharedWithReadersOnly() throws {
        try makeImage("qcow2")
        let server = try serve(["-r", "-f", "qcow2", image])
        let reader = try ImageLock(path: image, use: .reading)
        #expect(throws: BlockError.self) { try ImageLock(path: image, use: .writing) }
        reader.release()
        server.stop()
    }

    @Test func aBackingFileIsSharedWithQEMUsOverlays() throws {
        try makeImage("qcow2")
        let overlay = directory.path("overlay.qcow2")
        try Tool.check([
            "qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", overlay,
        ])
        let server = try serve(["-f", "qcow2", overlay])
        let backing = try ImageLock(path: image, use: .reading)
        #expect(throws: BlockError.self) { try ImageLock(path: overlay, use: .reading) }
        backing.release()
        server.stop()
    }

    @Test func withinOneProcessTheSameRulesHold() throws {
        try makeImage("raw")
        let first = try ImageLock(path: image, use: .reading)
        let second = try ImageLock(path: image, use: .reading)
        #expect(throws: BlockError.self) { try ImageLock(path: image, use: .writing) }
        first.release()
        second.release()
        let writer = try ImageLock(path: image, use: .writing)
        #expect(throws: BlockError.self) { try ImageLock(path: image, use: .reading) }
        #expect(writer.isInPlace)
        try HostDirectory.rename(image, to: image + ".old")
        #expect(!writer.isInPlace)
    }

    @Test func whatMerelyLooksIsWaitedFor() throws {
        try makeImage("raw")
        let passing = try ImageLock(path: image, use: .reading)
        HostThread.start(name: "looks") {
            usleep(150_000)
            passing.release()
        }
        _ = try ImageLock(path: image, use: .writing)
    }

    @Test func whatIsNoFileIsRefused() throws {
        #expect(throws: BlockError.self) { try ImageLock(path: directory.path, use: .reading) }
        try Tool.check(["mkfifo", image])
        let error = #expect(throws: BlockError.self) { try ImageLock(path: image, use: .reading) }
        #expect(error?.kind == .invalid)
    }
}
