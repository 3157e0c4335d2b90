// A writer's files, and the order in which they come and go:
//
// 1. The lock file appears, is locked, and its name is made durable.
// 2. Image and table grow under temporary names.
// 3. Both, durable by now, take their final names, and the folder is made durable.
// 4. The manifest is published: the point exists.
// 5. The lock file goes, as the last of the temporary names.
//
// So whatever a crash leaves has the lock file beside it, and whoever can lock that file knows
// that its writer is gone: image and table without a manifest are then leftovers too. Without a
// lock file they are evidence of something else, and nobody removes them.

import BlockCore

/// The names and the lock of one writer in a volume's folder. All calls may block.
struct DirectoryWriterFiles: Sendable {
    let folder: String
    let id: PointID
    private let stem: String
    private let lockFile: HostFile
    private let files: any FileSystem

    var imageTemporary: String { "\(stem).qcow2.tmp" }
    var digestsTemporary: String { "\(stem).digests.tmp" }
    var manifest: String { "\(folder)/\(id).json" }

    static func imageName(_ id: PointID) -> String { "\(id).qcow2" }
    static func digestsName(_ id: PointID) -> String { "\(id).digests" }

    private var image: String { "\(folder)/\(Self.imageName(id))" }
    private var digests: String { "\(folder)/\(Self.digestsName(id))" }

    /// Creates the folder if need be, and the lock. An id that is taken throws `invalid`.
    init(folder: String, id: PointID, files: any FileSystem) throws(BlockError) {
        self.folder = folder
        self.id = id
        self.files = files
        if try !files.exists(folder) {
            try files.createDirectory(folder)
            try files.flush("\(folder)/..")
        }
        (stem, lockFile) = try Self.lock(folder: folder, id: id, files)
        try files.flush(folder)
        for taken in [manifest, image, digests] {
            guard try files.exists(taken) else { continue }
            try? files.removeFile(lockFile.path)
            throw BlockError(
                .invalid, "begin the point", on: taken, detail: "the point's id is taken")
        }
    }

    private static func lock(
        folder: String, id: PointID, _ files: any FileSystem
    ) throws(BlockError) -> (stem: String, file: HostFile) {
        while true {
            let number = UInt64(UInt32.random(in: 0 ... .max)) | 1 << 32
            let stem = "\(folder)/\(id).\(String(number, radix: 16).dropFirst())"
            let path = "\(stem).writer.tmp"
            let file: HostFile
            do throws(BlockError) {
                file = try files.lock(path, .create)
            } catch {
                // A sweep that has just found the file, unlocked, removes it.
                if error.kind == .busy { continue }
                try? files.removeFile(path)
                throw error
            }
            if try files.exists(path) { return (stem, file) }
        }
    }

    /// Step 3: gives image and table their final names, durably.
    func nameData() throws(BlockError) {
        try files.rename(imageTemporary, to: image)
        try files.rename(digestsTemporary, to: digests)
        try files.flush(folder)
    }

    /// Steps 4 and 5.
    func publish(_ bytes: [UInt8]) throws(BlockError) {
        try files.replaceFile(manifest, with: bytes)
        // The point stands: a lock file that cannot be removed is for the sweep.
        try? files.removeFile(lockFile.path)
    }

    /// Removes everything, the manifest first and the lock last. What cannot be removed now is for
    /// the sweep: the error that led here is the one to report.
    func withdraw() {
        do throws(BlockError) {
            for path in [manifest, image, digests, imageTemporary, digestsTemporary] {
                try files.removeFile(path)
            }
            try files.flush(folder)
            try files.removeFile(lockFile.path)
        } catch {
            return
        }
    }
}
