import BlockCore
import Synchronization

/// Remembers that an image contradicts itself. From then on nothing is written to it but a mark in
/// its header, so that others keep off it as well until it is repaired. Nothing is written either,
/// but there is no mark, once it is unknown what the file says of where its tables are.
final class Damage: Sendable {
    private let file: any StorageFile
    private let incompatible: UInt64
    private let mayMark: Bool
    private let found = Atomic(false)
    private let isUnknown = Atomic(false)

    init(file: any StorageFile, header: Qcow2Header, isReadOnly: Bool) {
        self.file = file
        incompatible = header.incompatible
        mayMark = !isReadOnly && header.version >= 3
    }

    /// Whether the image was found, since it was opened, to be damaged or in an unknown state.
    var isFound: Bool { found.load(ordering: .relaxed) || isUnknown.load(ordering: .relaxed) }

    /// Takes note of damage; returns the error to throw.
    func found(_ operation: String, _ detail: String, range: ByteRange? = nil) -> BlockError {
        if !found.exchange(true, ordering: .relaxed), mayMark {
            // Should this fail, the next one to open the image finds what was found here.
            try? file.writeNumbers(
                [incompatible | Qcow2Layout.Incompatible.corrupt],
                at: UInt64(Qcow2Layout.Field.incompatible), durably: true)
        }
        return BlockError(
            .corrupt, operation, on: file.path, range: range,
            detail: "\(detail); run qemu-img check -r all on a copy")
    }

    /// Throws if damage was found.
    func check(_ operation: String) throws(BlockError) {
        if isUnknown.load(ordering: .relaxed) {
            throw BlockError(
                .io, operation, on: file.path,
                detail: "a change of its header or refcount table failed before, and may or may "
                    + "not be in the file; close the image and open it anew")
        }
        guard isFound else { return }
        throw BlockError(
            .corrupt, operation, on: file.path,
            detail: "the image was found to be corrupt; run qemu-img check -r all on a copy")
    }

    /// Writes `bytes`, which lie within a sector, durably at `offset`. A write that fails may have
    /// reached the file all the same, where the next one to open it finds it: so the old bytes are
    /// written back, and if that fails as well, nothing more is written to the image.
    func replace(at offset: UInt64, with bytes: [UInt8]) throws(BlockError) {
        var old = [UInt8](repeating: 0, count: bytes.count)
        try old.withMutableBytes { (old) throws(BlockError) in
            try file.read(at: offset, into: old)
        }
        do throws(BlockError) {
            try bytes.withBytes { (bytes) throws(BlockError) in
                try file.writeDurably(at: offset, from: bytes)
            }
        } catch {
            do throws(BlockError) {
                try old.withBytes { (old) throws(BlockError) in
                    try file.writeDurably(at: offset, from: old)
                }
            } catch {
                isUnknown.store(true, ordering: .relaxed)
            }
            throw error
        }
    }
}
