import BlockCore
import DriverNBD
import DriverQcow2
import DriverRaw
import Glibc
import Repository
import Volumes

// Where a restore writes to.
//
// A new image appears under its name whole or not at all. Until then it is beside it, under a name
// of its own that follows from the point: NAME.POINT.tidemark-partial, with a journal by which the
// same restore finds it again, NAME.POINT.tidemark-journal. At the end:
//
//     image flushed, journal says done, image linked to its name, folder flushed,
//     (the volume registered,) the other name removed, the journal removed
//
// What stands under the name before is never replaced, unless it is that very image, linked before
// a crash. While it is being written it is locked as QEMU locks an image that it writes.
//
// An export of an NBD server is written in place; its journal is in the agent's folder.

/// What a restore writes, and the journal of it.
final class RestoreDestination: Sendable {
    let device: any BlockDevice
    let journal: RestoreJournal
    /// Whether it held nothing but zeroes where the restore has not written.
    let isNew: Bool
    private let image: NewImage?

    private init(
        device: any BlockDevice, journal: RestoreJournal, isNew: Bool, image: NewImage?
    ) {
        self.device = device
        self.journal = journal
        self.isNew = isNew
        self.image = image
    }

    /// A new image at `path`; or nil if an earlier run of this restore has finished it, and only
    /// `publish` is left to do. May block.
    static func image(
        at path: String, format: ImageFormat, of reader: PointReader, _ identity: RestoreIdentity
    ) throws(BlockError) -> (destination: RestoreDestination?, image: NewImage) {
        let image = try NewImage(path: path, format: format, reader, identity)
        guard !image.isFinished else { return (nil, image) }
        let device = try image.open()
        return (
            RestoreDestination(
                device: device, journal: image.journal, isNew: true, image: image), image
        )
    }

    /// The export at `uri`, with a journal in `folder`. May block.
    static func export(
        at uri: String, of reader: PointReader, journalFolder folder: String,
        _ identity: RestoreIdentity
    ) throws(BlockError) -> RestoreDestination {
        let device = try NBDDevice.open(uri: uri, readOnly: false)
        guard device.lengthBytes >= reader.lengthBytes else {
            throw BlockError(
                .noSpace, "restore", on: uri,
                detail: "the export has \(device.lengthBytes) bytes, the point \(reader.point) "
                    + "needs \(reader.lengthBytes): make it larger")
        }
        try HostDirectory.create(folder)
        let journal = try RestoreJournal(
            path: "\(folder)/\(journalName(uri))\(NewImage.journalSuffix)", identity)
        return RestoreDestination(device: device, journal: journal, isNew: false, image: nil)
    }

    /// Flushes what was written, closes it, and notes that it is finished.
    func finish(hasLosses: Bool) async throws(BlockError) {
        try await device.flush()
        try await close()
        try await IOPool.background.run { [journal] () throws(BlockError) in
            try journal.recordDone(hasLosses: hasLosses)
        }
    }

    /// Closes what was written, for a later run to go on with; if there is nothing that such a run
    /// could use, removes it.
    func abandon(flushedBytes: UInt64) async {
        try? await close()
        guard flushedBytes == 0 else { return }
        image?.remove()
        journal.remove()
    }

    private func close() async throws(BlockError) {
        if let image { try await image.close() } else { try await device.close() }
    }

    /// A file name for a URI, which may be longer than one and hold anything: FNV-1a.
    private static func journalName(_ uri: String) -> String {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in uri.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
        return String(hash, radix: 16)
    }
}

/// A new image under its temporary name, and on its way to its own.
final class NewImage: Sendable {
    static let suffix = ".tidemark-partial"
    static let journalSuffix = ".tidemark-journal"

    let path: String
    let temporaryPath: String
    let journal: RestoreJournal
    /// Whether an earlier run has finished it.
    let isFinished: Bool

    private let format: ImageFormat
    private let lengthBytes: UInt64
    private let chain = HostMutex<ImageChain?>(nil)

    fileprivate init(
        path: String, format: ImageFormat, _ reader: PointReader, _ identity: RestoreIdentity
    ) throws(BlockError) {
        self.path = path
        self.format = format
        lengthBytes = reader.lengthBytes
        let stem = "\(path).\(reader.point)"
        temporaryPath = "\(stem)\(Self.suffix)"
        journal = try RestoreJournal(path: "\(stem)\(Self.journalSuffix)", identity)
        isFinished = journal.isDone && HostDirectory.exists(temporaryPath)
        let taken = HostFile.identity(of: path)
        if taken != nil, !isFinished || taken != HostFile.identity(of: temporaryPath) {
            if !journal.isContinued { journal.remove() }
            throw BlockError(
                .invalid, "restore", on: path,
                detail: "there is something by that name: remove it or choose another")
        }
    }

    /// What an earlier run that finished the image had lost; it listed the parts.
    var earlierLosses: [LostRange] {
        guard journal.hasLosses else { return [] }
        return [
            LostRange(
                range: ByteRange(offset: 0, lengthBytes: lengthBytes),
                reason: "parts of this: an interrupted run of this restore had found out which")
        ]
    }

    /// What the image already takes on its file system.
    var storedBytes: UInt64 {
        var status = stat()
        return stat(temporaryPath, &status) == 0 ? UInt64(status.st_blocks) * 512 : 0
    }

    fileprivate func open() throws(BlockError) -> any BlockDevice {
        if !journal.isContinued { try HostDirectory.removeFile(temporaryPath) }
        if !HostDirectory.exists(temporaryPath) {
            try create()
            try HostDirectory.flush(HostDirectory.parent(of: path))
        } else if format == .qcow2 {
            // The agent that wrote it may have been killed: what it had reserved is given back.
            let lock = try ImageLock(path: temporaryPath, use: .writing)
            _ = try Qcow2Check.repair(path: temporaryPath, .leaks)
            lock.release()
        }
        let opened = try ImageOpener.open(
            path: temporaryPath, format: format, readOnly: false, pool: .background)
        chain.withLock { $0 = opened }
        return opened.top
    }

    private func create() throws(BlockError) {
        switch format {
        case .raw: try RawDevice.create(path: temporaryPath, lengthBytes: lengthBytes)
        case .qcow2:
            try Qcow2Device.create(
                path: temporaryPath, lengthBytes: lengthBytes, pool: .background)
        }
    }

    fileprivate func close() async throws(BlockError) {
        let open = chain.withLock { chain in
            defer { chain = nil }
            return chain
        }
        try await open?.close()
    }

    /// Gives the finished image its name, unless something else has taken it meanwhile.
    func publish() throws(BlockError) {
        if HostFile.identity(of: path) == nil {
            try HostDirectory.link(temporaryPath, to: path)
        }
        try HostDirectory.flush(HostDirectory.parent(of: path))
    }

    /// Takes the name away again: what was to use the image could not. It can be published anew.
    func withdraw() { try? HostDirectory.removeFile(path) }

    /// Removes what only the restore needed.
    func conclude() throws(BlockError) {
        remove()
        journal.remove()
        try HostDirectory.flush(HostDirectory.parent(of: path))
    }

    /// Removes the temporary name.
    func remove() { try? HostDirectory.removeFile(temporaryPath) }
}
