import BlockCore

/// An internal snapshot, as the image's snapshot table describes it.
package struct Qcow2Snapshot: Sendable, Equatable {
    /// The entry from its start to the end of the name, as it stands in the file.
    let stored: [UInt8]
    let extraBytes: UInt32

    package var id: String {
        String(decoding: stored[idStart..<idStart + idBytes], as: UTF8.self)
    }
    package var name: String { String(decoding: stored[(idStart + idBytes)...], as: UTF8.self) }
    /// The virtual size when it was taken; nil where an old image does not say.
    package var diskBytes: UInt64? { extraBytes >= 16 ? number(48) : nil }
    package var vmStateBytes: UInt64 {
        extraBytes >= 8 ? number(40) : UInt64(number(32, as: UInt32.self))
    }
    /// When it was taken, in seconds since 1970.
    package var dateSeconds: UInt32 { number(16) }
    var l1Offset: UInt64 { number(0) }
    var l1Count: UInt32 { number(8) }

    private var idStart: Int { StoredSnapshots.fixedBytes + Int(extraBytes) }
    private var idBytes: Int { Int(number(12, as: UInt16.self)) }

    private func number<T: FixedWidthInteger>(_ offset: Int, as type: T.Type = T.self) -> T {
        stored.withUnsafeBytes { $0.bigEndian(at: offset, as: type) }
    }
}

/// The snapshot table of an image: entries of varying length, one after the other.
struct StoredSnapshots: Sendable {
    static let countMax = 65536
    static let bytesMax: UInt64 = 64 << 20
    static let extraBytesMax: UInt32 = 1024
    /// Version 3 wants at least these two numbers: the state's size in 64 bits, the disk's size.
    static let extraBytesOfVersion3: UInt32 = 16
    static let fixedBytes = 40

    private(set) var snapshots: [Qcow2Snapshot] = []
    /// From the start of the first entry to the end of the last.
    private(set) var lengthBytes: UInt64 = 0

    /// Reads the table that `header` names. Throws `corrupt` where it breaks a limit; if it is to
    /// be `cut`, what is beyond a limit is left out instead.
    init(file: any StorageFile, header: StoredHeader, cut: Bool = false) throws(BlockError) {
        guard header.snapshotOffset % header.clusterBytes == 0,
            header.snapshotOffset <= UInt64(Int64.max) - Self.bytesMax
        else {
            if cut && header.snapshotCount == 0 { return }
            throw Self.failure(file, "it is said to be at \(header.snapshotOffset)")
        }
        guard header.snapshotCount > 0 else { return }
        guard header.snapshotCount <= UInt32(Self.countMax) || cut else {
            throw Self.failure(file, "\(header.snapshotCount) snapshots; \(Self.countMax) at most")
        }
        let fileBytes = try file.sizeBytes()
        var window = ReadWindow(file: file)
        var offset = header.snapshotOffset
        for index in 0..<min(Int(header.snapshotCount), Self.countMax) {
            let start = offset.alignedUp(to: 8)
            var end = start
            let entry = try Self.entry(index, from: &end, &window, fileBytes, cut: cut)
            lengthBytes = lengthBytes.alignedUp(to: 8) + UInt64(entry.stored.count)
            guard lengthBytes <= Self.bytesMax else {
                if cut { break }
                throw Self.failure(file, "it has more than \(Self.bytesMax) bytes")
            }
            snapshots.append(entry)
            offset = end
        }
    }

    /// Reads the entry at `offset`, which is moved behind it.
    private static func entry(
        _ index: Int, from offset: inout UInt64, _ window: inout ReadWindow, _ fileBytes: UInt64,
        cut: Bool
    ) throws(BlockError) -> Qcow2Snapshot {
        guard offset <= fileBytes, fileBytes - offset >= UInt64(fixedBytes) else {
            throw failure(window.file, "entry \(index) is beyond the end of the file")
        }
        let fixed = try window.bytes(fixedBytes, at: offset)
        let idBytes = Int(number(fixed, 12, as: UInt16.self))
        let nameBytes = Int(number(fixed, 14, as: UInt16.self))
        let extraBytesStored: UInt32 = number(fixed, 36)
        guard extraBytesStored <= extraBytesMax || cut else {
            throw failure(
                window.file,
                "entry \(index) has \(extraBytesStored) bytes of extra data, "
                    + "\(extraBytesMax) at most")
        }
        let extraBytes = min(extraBytesStored, extraBytesMax)
        let id = fixedBytes + Int(extraBytes)
        var stored = id == fixedBytes ? fixed : try window.bytes(id, at: offset)
        offset += UInt64(fixedBytes) + UInt64(extraBytesStored)
        stored += try window.bytes(idBytes + nameBytes, at: offset)
        offset += UInt64(idBytes + nameBytes)
        return Qcow2Snapshot(stored: stored, extraBytes: extraBytes)
    }

    /// The table as version 3 wants it: every entry says the state's and the disk's size.
    func encoded(diskBytes: UInt64) -> [UInt8] {
        var bytes: [UInt8] = []
        for snapshot in snapshots {
            bytes += [UInt8](repeating: 0, count: (8 - bytes.count % 8) % 8)
            let extraEnd = Self.fixedBytes + Int(snapshot.extraBytes)
            var entry = Array(snapshot.stored[..<extraEnd])
            let missing = Int(Self.extraBytesOfVersion3) - Int(snapshot.extraBytes)
            if missing > 0 {
                entry += [UInt8](repeating: 0, count: missing)
                entry.withUnsafeMutableBytes {
                    $0.storeBigEndian(Self.extraBytesOfVersion3, at: 36)
                    $0.storeBigEndian(snapshot.vmStateBytes, at: Self.fixedBytes)
                    $0.storeBigEndian(snapshot.diskBytes ?? diskBytes, at: Self.fixedBytes + 8)
                }
            } else {
                entry.withUnsafeMutableBytes { $0.storeBigEndian(snapshot.extraBytes, at: 36) }
            }
            bytes += entry + snapshot.stored[extraEnd...]
        }
        return bytes
    }

    private static func number<T: FixedWidthInteger>(
        _ bytes: [UInt8], _ offset: Int, as type: T.Type = T.self
    ) -> T {
        bytes.withUnsafeBytes { $0.bigEndian(at: offset, as: type) }
    }

    private static func failure(_ file: any StorageFile, _ detail: String) -> BlockError {
        BlockError(.corrupt, "read the snapshot table", on: file.path, detail: detail)
    }
}

/// Reads a file piece by piece from its start to its end, with fewer and larger system calls.
private struct ReadWindow {
    private static let lengthBytes = 64 << 10

    let file: any StorageFile
    private var start: UInt64 = 0
    private var content: [UInt8] = []

    init(file: any StorageFile) { self.file = file }

    mutating func bytes(_ count: Int, at offset: UInt64) throws(BlockError) -> [UInt8] {
        if offset < start || offset + UInt64(count) > start + UInt64(content.count) {
            start = offset
            content = try file.readBytes(max(count, Self.lengthBytes), at: offset)
        }
        let first = Int(offset - start)
        return Array(content[first..<first + count])
    }
}
