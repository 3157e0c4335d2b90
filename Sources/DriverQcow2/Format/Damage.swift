import BlockCore
import Synchronization

/// Remembers that an image contradicts itself. From then on nothing is written to it but a mark in
/// its header, so that others keep off it as well until it is repaired.
final class Damage: Sendable {
    private let file: any StorageFile
    private let incompatible: UInt64
    private let mayMark: Bool
    private let found = Atomic(false)

    init(file: any StorageFile, header: Qcow2Header, isReadOnly: Bool) {
        self.file = file
        incompatible = header.incompatible
        mayMark = !isReadOnly && header.version >= 3
    }

    /// Whether the image was found to be damaged since it was opened.
    var isFound: Bool { found.load(ordering: .relaxed) }

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
        guard isFound else { return }
        throw BlockError(
            .corrupt, operation, on: file.path,
            detail: "the image was found to be corrupt; run qemu-img check -r all on a copy")
    }
}
