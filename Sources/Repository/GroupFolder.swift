// The manifests of groups lie in one folder of the repository, `groups/GROUP.json`.
//
// A manifest is written under a temporary name, `GROUP.8HEX.group.tmp`, flushed and renamed, and
// the folder is flushed. The temporary file is its own lock: its writer holds it, so that a sweep
// that can lock one knows that the writer is gone.

import BlockCore
import Foundation

/// The folder of a directory repository's groups, by calls that may block.
struct GroupFolder {
    static let name = "groups"

    private static let lengthBytesMax = 4 << 20

    let store: DirectoryStore
    private var files: any FileSystem { store.files }

    init(store: DirectoryStore) { self.store = store }

    private var path: String { "\(store.root)/\(Self.name)" }

    /// Makes the group known, durably.
    func publish(_ manifest: GroupManifest) throws(BlockError) {
        guard let (bytes, _) = ManifestSeal.encode(manifest, suffix: ""),
            bytes.count <= Self.lengthBytesMax
        else {
            throw BlockError(.invalid, "write the manifest of the group", on: manifest.group.text)
        }
        if try !files.exists(path) {
            try files.createDirectory(path)
            try files.flush(store.root)
        }
        let (temporary, lock) = try createTemporary(for: manifest.group)
        do throws(BlockError) {
            let file = try files.open(temporary, .readWrite)
            try bytes.withBytes { (bytes) throws(BlockError) in
                try file.write(at: 0, from: bytes)
            }
            try file.flush()
            try files.rename(temporary, to: "\(path)/\(manifest.group).json")
            try files.flush(path)
        } catch {
            // Both names: a rename that failed may have happened.
            try? files.removeFile("\(path)/\(manifest.group).json")
            try? files.removeFile(temporary)
            throw error
        }
        withExtendedLifetime(lock) {}
    }

    /// Every manifest that is whole, oldest first.
    func all() throws(BlockError) -> [GroupManifest] {
        var manifests: [GroupManifest] = []
        for name in try store.names(in: path) {
            guard name.hasSuffix(".json"), let id = PointID(name.dropLast(5)) else { continue }
            do throws(BlockError) {
                manifests.append(try manifest(id))
            } catch {
                guard [.corrupt, .unsupported, .notFound].contains(error.kind) else { throw error }
            }
        }
        return manifests
    }

    /// Removes what crashed writers left; the paths removed are returned.
    func sweep() throws(BlockError) -> [String] {
        var removed: [String] = []
        for name in try store.names(in: path) {
            let parts = name.split(separator: ".", omittingEmptySubsequences: false)
            guard parts.count == 5, PointID("\(parts[0]).\(parts[1])") != nil,
                parts[2].utf8.count == 8, parts[2].utf8.allSatisfy(Hexadecimal.isDigit),
                parts[3] == "group", parts[4] == "tmp",
                let lock = try? files.lock("\(path)/\(name)", .readWrite)
            else { continue }
            try files.removeFile("\(path)/\(name)")
            withExtendedLifetime(lock) {}
            removed.append("\(path)/\(name)")
        }
        return removed
    }

    private func createTemporary(
        for id: PointID
    ) throws(BlockError) -> (path: String, lock: HostFile) {
        while true {
            let number = UInt64(UInt32.random(in: 0 ... .max)) | 1 << 32
            let temporary = "\(path)/\(id).\(String(number, radix: 16).dropFirst()).group.tmp"
            do throws(BlockError) {
                let lock = try files.lock(temporary, .create)
                if try files.exists(temporary) { return (temporary, lock) }
            } catch {
                // A sweep that has just found the file, unlocked, removes it.
                guard error.kind == .busy else {
                    try? files.removeFile(temporary)
                    throw error
                }
            }
        }
    }

    private func manifest(_ id: PointID) throws(BlockError) -> GroupManifest {
        let place = "\(path)/\(id).json"
        func refuse(_ kind: BlockError.Kind, _ detail: String) -> BlockError {
            BlockError(kind, "read the manifest of the group", on: place, detail: detail)
        }
        let bytes = try files.readFile(place, limitBytes: Self.lengthBytesMax)
        struct Version: Decodable {
            var formatVersion: Int
        }
        guard let version = try? JSONDecoder().decode(Version.self, from: Data(bytes)) else {
            throw refuse(.corrupt, "it is not JSON, or has no format version")
        }
        guard version.formatVersion <= GroupManifest.formatVersion else {
            throw refuse(.unsupported, "format version \(version.formatVersion)")
        }
        guard let manifest = try? JSONDecoder().decode(GroupManifest.self, from: Data(bytes)),
            manifest.group == id, !manifest.members.isEmpty
        else { throw refuse(.corrupt, "a field is missing or wrong") }
        guard ManifestSeal.seal(of: bytes, suffix: "") == manifest.manifestSHA256 else {
            throw refuse(.corrupt, "its SHA-256 is not what it says")
        }
        return manifest
    }
}
