import BlockCore
import Glibc

/// Keeps a state directory to one agent, or to one command that works without an agent, for as
/// long as a reference to the lock exists.
///
/// The lock is on `agent.lock`, which is never removed; the process id in it is for messages.
package final class StateDirectoryLock: Sendable {
    /// The name of the file in the state directory.
    package static let fileName = "agent.lock"

    private let file: HostFile

    /// Locks `directory`, creating it if need be. Throws `locked`, naming the holder, if another
    /// process has it.
    package init(directory: String) throws(CatalogError) {
        let path = "\(directory)/\(Self.fileName)"
        do throws(BlockError) {
            try HostDirectory.create(directory)
            file = try Self.openOrCreate(path)
        } catch {
            throw CatalogError(error, "lock the state directory")
        }
        do throws(BlockError) {
            try file.lock(exclusive: true)
        } catch {
            guard error.kind == .busy else {
                throw CatalogError(error, "lock the state directory")
            }
            throw CatalogError(
                .locked, "lock the state directory", on: directory,
                detail: "the agent with \(Self.holder(file)) is using it; "
                    + "stop that one, or give another directory with --state")
        }
        do throws(BlockError) {
            try file.truncate(toBytes: 0)
            try Array("\(getpid())\n".utf8).withBytes { (bytes) throws(BlockError) in
                try file.write(at: 0, from: bytes)
            }
        } catch {
            throw CatalogError(error, "lock the state directory")
        }
    }

    private static func openOrCreate(_ path: String) throws(BlockError) -> HostFile {
        while true {
            do throws(BlockError) { return try HostFile(path: path, access: .readWrite) } catch {
                guard error.kind == .notFound else { throw error }
            }
            do throws(BlockError) { return try HostFile(path: path, access: .create) } catch {
                // Another process was faster: open its file.
                guard error.errno == EEXIST else { throw error }
            }
        }
    }

    private static func holder(_ file: HostFile) -> String {
        var bytes = [UInt8](repeating: 0, count: 16)
        do throws(BlockError) {
            try bytes.withMutableBytes { (bytes) throws(BlockError) in
                try file.read(at: 0, into: bytes)
            }
        } catch {
            return "an unknown process id"
        }
        let digits = bytes.prefix { $0 != 10 && $0 != 0 }
        guard !digits.isEmpty else { return "an unknown process id" }
        return "process id \(String(decoding: digits, as: UTF8.self))"
    }
}
