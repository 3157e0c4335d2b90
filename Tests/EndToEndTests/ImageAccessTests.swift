import Foundation
import TestSupport
import Testing

/// Who may open an image, and as what.
@Suite(.serialized) struct ImageAccessTests {
    private let directory: TemporaryDirectory
    private let agent: AgentProcess

    init() throws {
        directory = try TemporaryDirectory()
        agent = try AgentProcess(state: directory.path("state"))
    }

    private func makeImage(_ name: String, _ options: String..., format: String) throws -> String {
        let path = directory.path(name)
        try Tool.check(["qemu-img", "create", "-q", "-f", format] + options + [path, "1M"])
        return path
    }

    @Test(arguments: ["raw", "qcow2"])
    func whileTheAgentHasAnImageQEMUIsKeptOut(format: String) throws {
        let image = try makeImage("disk.img", format: format)
        try agent.tell("volume", "import", "disk", image, "--format", format)
        var refused = [["qemu-io", "-f", format, "-c", "write 0 4k", image]]
        // Of a raw image QEMU lets anybody read what somebody else writes.
        if format == "qcow2" { refused.append(["qemu-img", "info", "-f", format, image]) }
        for arguments in refused {
            let result = try Tool.run(arguments)
            #expect(result.status != 0 && result.errors.contains("lock"), "\(result.errors)")
        }
        agent.stop(SIGTERM)
        try Tool.check(["qemu-io", "-f", format, "-c", "write 0 4k", image])
    }

    @Test func anImageThatQEMUServesIsRefusedWithTheCodeForLocked() throws {
        let image = try makeImage("disk.img", format: "qcow2")
        let socket = directory.path("qemu.sock")
        let pidFile = directory.path("qemu.pid")
        try Tool.check([
            "qemu-nbd", "--fork", "-t", "-f", "qcow2", "-k", socket, "--pid-file", pidFile, image,
        ])
        let result = try agent.run(["volume", "import", "disk", image, "--format", "qcow2"])
        #expect(result.status == 11)
        #expect(result.errors.contains(image) && result.errors.contains("fuser"))
        let pid = try #require(
            Int32(String(decoding: readFile(pidFile), as: UTF8.self).filter(\.isNumber)))
        kill(pid, SIGKILL)
        // Nothing is left of the refused import.
        try agent.tell("volume", "import", "disk", image, "--format", "qcow2")
    }

    @Test func twoVolumesShareABackingFileAndNothingElseWritesIt() throws {
        let base = try makeImage("base.raw", format: "raw")
        for name in ["one", "two"] {
            let overlay = try makeImage(
                "\(name).qcow2", "-b", base, "-F", "raw", format: "qcow2")
            try agent.tell("volume", "import", name, overlay, "--format", "qcow2")
        }
        let write = try Tool.run(["qemu-io", "-f", "raw", "-c", "write 0 4k", base])
        #expect(write.status != 0 && write.errors.contains("lock"))
        let third = try agent.run(["volume", "import", "three", base, "--format", "raw"])
        #expect(third.status != 0 && third.errors.contains("volume one uses this image"))
    }

    /// The guest of a raw disk writes the header of an image over a file of the host.
    @Test func aRawImageStaysRawWhateverItsGuestWrites() throws {
        let secret = directory.path("secret")
        try writeFile(secret, [UInt8](repeating: 0x53, count: 1 << 20))
        let forged = try makeImage("forged.qcow2", "-b", secret, "-F", "raw", format: "qcow2")
        let header = try readFile(forged)
        let image = try makeImage("disk.raw", format: "raw")
        try agent.tell("volume", "import", "disk", image, "--format", "raw")
        try Tool.check(["nbdcopy", "--allocated", forged, agent.uri("disk")])

        agent.stop(SIGTERM)
        let again = try AgentProcess(state: directory.path("state"))
        let bytes = try again.copy("disk", to: directory.path("copy"))
        #expect(bytes.count == 1 << 20 && Array(bytes[..<header.count]) == header)

        // Not even a new import without a format believes it.
        try again.tell("volume", "remove", "disk")
        let guess = try again.run(["volume", "import", "disk", image])
        #expect(guess.status == 1 && guess.errors.contains("--format raw"), "\(guess.errors)")
        try again.tell("volume", "import", "disk", image, "--format", "raw")
    }

    @Test func whatLooksLikeNothingIsTakenForRawWithAWarning() throws {
        let image = try makeImage("disk.raw", format: "raw")
        let result = try agent.run(["volume", "import", "disk", image])
        #expect(result.status == 0 && result.errors.contains("was taken for a raw image"))
        let qcow2 = try makeImage("disk.qcow2", format: "qcow2")
        let known = try agent.run(["volume", "import", "other", qcow2])
        #expect(known.status == 0 && known.errors.isEmpty)
        let foreign = try makeImage("disk.vmdk", format: "vmdk")
        let refused = try agent.run(["volume", "import", "foreign", foreign])
        #expect(refused.status == 1 && refused.errors.contains("VMDK"))
    }

    @Test func anExportOfAnotherServerBecomesAVolume() throws {
        let image = try makeImage("disk.raw", format: "raw")
        let socket = directory.path("other.sock")
        let uri = "nbd+unix:///?socket=\(socket)"
        let server = try ServerProcess(
            ["nbdkit", "-f", "-U", socket, "file", image], socket: socket)
        try agent.tell("volume", "import", "disk", uri)
        let shown = try agent.tell("volume", "show", "disk")
        #expect(shown.contains("\(uri) (raw)"))
        let twice = try agent.run(["volume", "import", "again", uri])
        #expect(twice.status == 1 && twice.errors.contains("volume disk uses this image"))

        try agent.tell("repo", "init", "vault", directory.path("vault"))
        _ = try agent.backUp("disk")
        try Tool.check(["qemu-io", "-f", "raw", "-c", "write -P 9 70k 100k", agent.uri("disk")])
        let point = try agent.backUp("disk")
        #expect(point.level == "incremental")
        let restored = try agent.restore(point.id, to: directory.path("restored"))
        #expect(try readFile(image) == restored)

        // Nobody can tell who wrote to it while the agent was away.
        agent.stop(SIGTERM)
        let again = try AgentProcess(state: directory.path("state"))
        let next = try again.backUp("disk")
        #expect(next.level == "incremental" && next.reason == "bitmap-inconsistent")
        again.stop(SIGTERM)
        server.stop()
    }

    @Test func anImageCanBypassThePageCacheAcrossStarts() throws {
        let image = try makeImage("disk.raw", format: "raw")
        try agent.tell("volume", "import", "disk", image, "--format", "raw", "--direct")
        try agent.tell("volume", "create", "new", "--size", "1M", "--format", "raw", "--direct")
        try Tool.check(["qemu-io", "-f", "raw", "-c", "write -P 9 1000 70k", agent.uri("disk")])
        agent.stop(SIGTERM)
        let again = try AgentProcess(state: directory.path("state"))
        #expect(try again.tell("volume", "show", "disk").contains("\(image) (raw, direct)"))
        let bytes = try again.copy("disk", to: directory.path("copy"))
        #expect(bytes[999] == 0 && bytes[1000] == 9 && bytes[1000 + 70 * 1024] == 0)
        let direct = try Tool.check(["/usr/bin/python3", "-c", Self.directFiles])
        #expect(direct.contains("\(image)\n"), "\(direct)")

        let refused = try again.run([
            "volume", "create", "other", "--size", "1M", "--format", "qcow2", "--direct",
        ])
        #expect(refused.status == 1 && refused.errors.contains("only raw files"))
        again.stop(SIGTERM)
    }

    /// Prints the paths that any process has open with O_DIRECT.
    private static let directFiles = """
        import glob, os
        for link in glob.glob('/proc/[0-9]*/fd/*'):
            try:
                path = os.readlink(link)
                flags = open(link.replace('/fd/', '/fdinfo/')).read().split('flags:')[1].split()[0]
                if int(flags, 8) & os.O_DIRECT: print(path)
            except OSError: pass
        """

    @Test func aBackingFileWithoutARecordedFormatIsRefused() throws {
        let base = try makeImage("base.raw", format: "raw")
        let overlay = try makeImage("top.qcow2", "-b", base, "-F", "raw", format: "qcow2")
        try Tool.check([
            "python3", "-c", Self.forgetFormat, overlay,
        ])
        let result = try agent.run(["volume", "import", "disk", overlay, "--format", "qcow2"])
        #expect(result.status == 1 && result.errors.contains("qemu-img rebase -u"))
        // The remedy that it names works, also because nothing is locked any more.
        try Tool.check(["qemu-img", "rebase", "-u", "-b", base, "-F", "raw", overlay])
        try agent.tell("volume", "import", "disk", overlay, "--format", "qcow2")
    }

    /// Makes the header extension that names the backing format one that nobody knows.
    private static let forgetFormat = """
        import sys
        f = open(sys.argv[1], 'r+b'); head = f.read(512)
        f.seek(head.index(bytes.fromhex('e2792aca'))); f.write(bytes.fromhex('12345678'))
        """
}
