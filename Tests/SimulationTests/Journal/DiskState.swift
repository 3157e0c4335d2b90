import Foundation
import TestSupport

/// The files of one folder, as they are on a disk. Paths are relative to the folder.
struct DiskState {
    struct File {
        var inode: UInt64
        var bytes: [UInt8]
        var modifiedNanoseconds: Int64
    }

    var directories: Set<String> = []
    var files: [String: File] = [:]

    /// What is at `root` now. Sockets are left out: nothing is kept in them.
    init(readingFrom root: String) throws {
        for case let name as String in FileManager.default.enumerator(atPath: root) ?? .init() {
            var status = stat()
            guard lstat("\(root)/\(name)", &status) == 0 else { continue }
            switch status.st_mode & S_IFMT {
            case S_IFDIR: directories.insert(name)
            case S_IFREG where !name.hasSuffix("-shm"):
                files[name] = File(
                    inode: UInt64(status.st_ino), bytes: try readFile("\(root)/\(name)"),
                    modifiedNanoseconds: Int64(status.st_mtim.tv_sec) * 1_000_000_000
                        + Int64(status.st_mtim.tv_nsec))
            default: break
            }
        }
    }

    init() {}

    var inodes: Set<UInt64> { Set(files.values.map(\.inode)) }

    /// Where this and `other` differ; nil if they do not.
    func difference(from other: DiskState) -> String? {
        if directories != other.directories {
            return "folders \(directories.symmetricDifference(other.directories).sorted())"
        }
        for name in Set(files.keys).union(other.files.keys).sorted() {
            guard let mine = files[name], let theirs = other.files[name] else {
                return "\(name) is in one only"
            }
            if mine.inode != theirs.inode { return "\(name) is another file" }
            if mine.bytes.count != theirs.bytes.count {
                return "\(name) has \(mine.bytes.count) bytes, or \(theirs.bytes.count)"
            }
            if let place = mine.bytes.firstDifference(from: theirs.bytes) {
                return "\(name) differs at \(place)"
            }
        }
        return nil
    }
}

/// Puts states of a disk in the place of one folder. Files keep their inodes, by which the agent
/// tells whether an image was replaced: each has a second name beside the folder, so that it stays
/// though an agent that recovers removes it.
final class DiskRewriter {
    private let root: String
    private let attic: String
    private let inodes: Set<UInt64>

    /// `inodes` are those that states may name.
    init(root: String, inodes: Set<UInt64>) throws {
        self.root = root
        attic = root + ".attic"
        self.inodes = inodes
        try FileManager.default.createDirectory(
            atPath: attic, withIntermediateDirectories: true)
    }

    /// Makes the folder what `state` says. No agent may be running on it.
    func apply(_ state: DiskState) throws {
        try clear()
        for directory in state.directories.sorted() { mkdir("\(root)/\(directory)", 0o700) }
        var placed: [UInt64: (path: String, file: DiskState.File)] = [:]
        // Inodes of removed files are used again: whose it is now was written later.
        let files = state.files.sorted {
            $0.value.modifiedNanoseconds > $1.value.modifiedNanoseconds
        }
        for (name, file) in files {
            let path = "\(root)/\(name)"
            // A second name of one file; the number alone does not say so.
            if let first = placed[file.inode], first.file.bytes == file.bytes,
                first.file.modifiedNanoseconds == file.modifiedNanoseconds
            {
                guard link(first.path, path) == 0 else {
                    throw Tool.Failure(description: "cannot link \(path)")
                }
                continue
            }
            let isReused = placed.updateValue((path, file), forKey: file.inode) != nil
            let waiting = "\(attic)/\(file.inode)"
            if isReused || link(waiting, path) != 0 { try writeFile(path, []) }
            let descriptor = open(path, O_WRONLY | O_TRUNC)
            defer { close(descriptor) }
            let isWritten =
                ftruncate(descriptor, file.bytes.count) == 0
                && Self.write(file.bytes, to: descriptor)
            let seconds = Int(file.modifiedNanoseconds / 1_000_000_000)
            let time = timespec(
                tv_sec: seconds, tv_nsec: Int(file.modifiedNanoseconds % 1_000_000_000))
            guard descriptor >= 0, isWritten, futimens(descriptor, [time, time]) == 0 else {
                throw Tool.Failure(description: "cannot write \(path)")
            }
        }
    }

    private func clear() throws {
        for (name, file) in try DiskState(readingFrom: root).files
        where inodes.contains(file.inode) {
            link("\(root)/\(name)", "\(attic)/\(file.inode)")
        }
        try FileManager.default.removeItem(atPath: root)
        try FileManager.default.createDirectory(atPath: root, withIntermediateDirectories: true)
    }

    private static func write(_ bytes: [UInt8], to descriptor: Int32) -> Bool {
        bytes.withUnsafeBytes { bytes in
            let pieceBytes = 64 << 10
            for offset in stride(from: 0, to: bytes.count, by: pieceBytes) {
                let count = min(pieceBytes, bytes.count - offset)
                let piece = bytes.baseAddress! + offset
                if piece.load(as: UInt8.self) == 0, memcmp(piece, piece + 1, count - 1) == 0 {
                    continue
                }
                guard pwrite(descriptor, piece, count, offset) == count else { return false }
            }
            return true
        }
    }
}
