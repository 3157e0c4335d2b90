import Foundation
import TestSupport

/// An NBD server whose requests of one kind fail as long as it is told so.
final class FaultyServer {
    let uri: String
    let path: String
    private let directory: TemporaryDirectory
    private let process: ServerProcess
    private var trigger: String { directory.path("broken") }

    /// `failing` is what nbdkit calls the request. A `policy` that ends in `-full` has it fail for
    /// want of room.
    init(lengthBytes: Int, failing: String, _ policy: String) throws {
        directory = try TemporaryDirectory()
        path = directory.path("base")
        _ = FileManager.default.createFile(atPath: path, contents: nil)
        truncate(path, off_t(lengthBytes))
        try Tool.check(["qemu-io", "-f", "raw", "-c", "write -P 7 0 1M", path])
        let socket = directory.path("nbd.sock")
        let number = policy.hasSuffix("-full") ? "ENOSPC" : "EIO"
        process = try ServerProcess(
            [
                "nbdkit", "-f", "-U", socket, "--filter=error", "file", path,
                "error-\(failing)=\(number)", "error-\(failing)-rate=100%",
                "error-\(failing)-file=\(directory.path("broken"))",
            ], socket: socket)
        uri = "nbd+unix:///?socket=\(socket)"
    }

    func breaks() { _ = FileManager.default.createFile(atPath: trigger, contents: nil) }

    func heals() { unlink(trigger) }

    func stop() { process.stop() }
}
