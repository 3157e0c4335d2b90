import Bitmaps
import BlockCore
import Catalog

/// One bitmap of a volume: its row in the catalog and its bits in memory.
struct BitmapEntry {
    var record: BitmapRecord
    var bits: DirtyBitmap

    /// While a backup of this bitmap runs, the one that records in its place.
    var successor: Successor?

    struct Successor {
        var record: BitmapRecord
        var bits: DirtyBitmap
    }

    /// The job that is going to change it when it ends, if there is one besides a backup.
    var jobID: String?

    /// The name by which users know it.
    var name: String { record.name ?? "" }

    /// The bits that a write sets, if it sets any.
    var recordingBits: DirtyBitmap? {
        if let successor { return successor.record.isRecording ? successor.bits : nil }
        return record.isRecording && !record.isInconsistent ? bits : nil
    }
}

/// The bitmaps of a volume by name.
struct BitmapTable {
    var entries: [BitmapEntry] = []
    /// Those of jobs, which users do not see.
    var working: [WorkingBitmap] = []

    subscript(name: String) -> BitmapEntry? {
        get { entries.first { $0.name == name } }
        set {
            if let index = entries.firstIndex(where: { $0.name == name }) {
                if let newValue { entries[index] = newValue } else { entries.remove(at: index) }
            } else if let newValue {
                entries.append(newValue)
            }
        }
    }

    /// The bits that a write sets.
    var recording: [DirtyBitmap] {
        entries.compactMap(\.recordingBits) + working.flatMap(\.recordingBits)
    }

    /// What changed since it was last taken: of all that `range` touches, or of everything, and at
    /// most `limit` chunks of each bitmap.
    func takeDirtyChunks(
        touching range: ByteRange? = nil, limit: Int = .max
    ) -> [TakenChunks] {
        let named = entries.flatMap { entry in
            [(entry.record.id, entry.bits)]
                + (entry.successor.map { [($0.record.id, $0.bits)] } ?? [])
        }
        return (named + working.map { ($0.record.bitmap.id, $0.unsettled) }).map {
            TakenChunks(
                bitmapID: $0.0, bits: $0.1,
                chunks: $0.1.takeDirtyChunks(touching: range, limit: limit))
        }
        .filter { !$0.chunks.isEmpty }
    }
}

/// Chunks on their way to the catalog.
struct TakenChunks {
    let bitmapID: Int64
    let bits: DirtyBitmap
    let chunks: [BitmapChunk]

    /// Their commit failed: they are due again.
    func giveBack() { bits.restoreUnpersisted(chunks.map(\.index)) }
}
