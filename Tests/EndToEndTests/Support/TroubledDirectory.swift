import Foundation
import Glibc
import TestSupport

/// A directory that can be made to misbehave: it lies behind FUSE, with a server that can be
/// stopped, slowed down or killed, over a small file system in memory, which can be full.
final class TroubledDirectory {
    let path: String
    private let behind: String
    /// It goes only after what is mounted in it.
    private let directory: TemporaryDirectory
    private var server: Process?

    /// `options` are those of bindfs.
    init(in directory: TemporaryDirectory, megabytes: Int, options: [String] = []) throws {
        self.directory = directory
        path = directory.path("troubled")
        behind = directory.path("behind")
        for folder in [path, behind] {
            try FileManager.default.createDirectory(
                atPath: folder, withIntermediateDirectories: true)
        }
        try Tool.check([
            "mount", "-t", "tmpfs", "-o", "size=\(megabytes)m", "tidemark-test", behind,
        ])
        try start(options: options)
    }

    deinit {
        kill()
        _ = try? Tool.run(["umount", "-l", behind])
    }

    /// Starts a server, and waits until it serves.
    func start(options: [String] = []) throws {
        let server = Process()
        server.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        server.arguments = ["bindfs", "-f", "--multithreaded"] + options + [behind, path]
        server.standardInput = FileHandle.nullDevice
        try server.run()
        self.server = server
        let deadline = Date(timeIntervalSinceNow: 20)
        while try Tool.run(["mountpoint", "-q", path]).status != 0 {
            guard server.isRunning, Date() < deadline else {
                throw Tool.Failure(description: "bindfs does not serve \(path)")
            }
            usleep(10_000)
        }
    }

    /// Makes every request to it hang until `resume`.
    func hang() { signal(SIGSTOP) }

    func resume() { signal(SIGCONT) }

    /// Makes every request fail that is under way or goes to an open file; by name there is an empty
    /// folder.
    func kill() {
        guard let server else { return }
        signal(SIGKILL)
        server.waitUntilExit()
        self.server = nil
        _ = try? Tool.run(["umount", "-l", path])
    }

    func resize(megabytes: Int) throws {
        try Tool.check(["mount", "-o", "remount,size=\(megabytes)m", behind])
    }

    /// What lies in it, asked without its server.
    func names() throws -> [String] { try FileManager.default.subpathsOfDirectory(atPath: behind) }

    func storedBytes() throws -> Int {
        try names().reduce(0) { sum, name in
            var status = stat()
            return stat("\(behind)/\(name)", &status) == 0 ? sum + Int(status.st_blocks) * 512 : sum
        }
    }

    private func signal(_ number: Int32) {
        if let server { Glibc.kill(server.processIdentifier, number) }
    }
}
