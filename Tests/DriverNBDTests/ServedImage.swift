import BlockCore
import DriverNBD
import Synchronization
import TestSupport

/// The servers against which the client is tested.
enum NBDServerKind: String, CaseIterable, Sendable {
    case qemuRaw
    case qemuQcow2
    case nbdkit
    /// One connection only, no extents, no zeroes, no trim.
    case nbdkitPlain
    /// Refuses what is not a multiple of 4096 bytes.
    case nbdkitBlocks
}

/// An image file and the server that exports it.
final class ServedImage: Sendable {
    let directory: TemporaryDirectory
    let kind: NBDServerKind
    private let server = Mutex<ServerProcess?>(nil)

    init(_ kind: NBDServerKind) throws {
        directory = try TemporaryDirectory()
        self.kind = kind
    }

    var image: String { directory.path("disk.img") }
    var socket: String { directory.path("nbd.sock") }
    var uri: String { "nbd+unix:///?socket=\(socket)" }

    /// Replaces the image and starts the server anew.
    func serve(_ content: [UInt8], _ options: String...) throws {
        stop()
        try writeFile(image, content)
        if kind == .qemuQcow2 {
            let qcow2 = image + ".qcow2"
            try HostDirectory.removeFile(qcow2)
            try Tool.check(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", image, qcow2])
            try HostDirectory.rename(qcow2, to: image)
        }
        try start(options)
    }

    /// Starts the server, with options of nbdkit's beyond those of its kind.
    func start(_ options: [String] = []) throws {
        let command =
            switch kind {
            case .qemuRaw: ["qemu-nbd", "-t", "-e", "8", "-f", "raw", "-k", socket, image]
            case .qemuQcow2:
                [
                    "qemu-nbd", "-t", "-e", "8", "-f", "qcow2", "--discard=unmap", "-k", socket,
                    image,
                ]
            case .nbdkit: nbdkit([], options)
            case .nbdkitPlain:
                nbdkit(
                    ["noextents", "nozero", "noparallel", "multi-conn"],
                    ["zeromode=none", "multi-conn-mode=disable"] + options)
            case .nbdkitBlocks:
                nbdkit(
                    ["blocksize-policy"],
                    ["blocksize-minimum=4096", "blocksize-error-policy=error"] + options)
            }
        let started = try ServerProcess(command, socket: socket)
        server.withLock { $0 = started }
    }

    /// Filters are named by options of theirs: `delay-read=1` asks for the delay filter.
    private func nbdkit(_ filters: [String], _ options: [String]) -> [String] {
        let asked = ["delay", "error"].filter { name in
            options.contains { $0.hasPrefix(name) }
        }
        return ["nbdkit", "-f", "-U", socket]
            + (filters + asked).map { "--filter=\($0)" } + ["file", image] + options
    }

    func stop() { server.withLock { $0 }?.stop() }

    func signal(_ number: Int32) { server.withLock { $0 }?.signal(number) }

    func open(
        readOnly: Bool = false, _ options: NBDOptions = NBDOptions()
    ) throws(BlockError) -> NBDDevice {
        try NBDDevice.open(uri: uri, readOnly: readOnly, options: options)
    }
}
