import BlockCore
import NBDServer
import Synchronization

/// An export of any device with fixed dirty bitmaps.
final class DeviceExport: NBDExport {
    let name: String
    let description: String
    let device: any BlockDevice
    let isReadOnly: Bool
    private let bitmaps: [String: [ByteRange]]
    private let opened = Atomic(0)
    private let closed = Atomic(0)

    var bitmapNames: [String] { bitmaps.keys.sorted() }
    var openedCount: Int { opened.load(ordering: .sequentiallyConsistent) }
    var closedCount: Int { closed.load(ordering: .sequentiallyConsistent) }

    /// `bitmaps` maps names to the dirty ranges, in order and apart from each other.
    init(
        _ name: String, _ device: any BlockDevice, description: String = "",
        isReadOnly: Bool = false,
        bitmaps: [String: [ByteRange]] = [:]
    ) {
        self.name = name
        self.device = device
        self.description = description
        self.isReadOnly = isReadOnly
        self.bitmaps = bitmaps
    }

    func dirtyRuns(
        bitmap: String, in range: ByteRange, limit: Int
    ) throws(BlockError) -> [NBDDirtyRun] {
        guard let dirty = bitmaps[bitmap] else {
            throw BlockError(.notFound, "find the bitmap \(bitmap)", on: name)
        }
        var runs: [NBDDirtyRun] = []
        var position = range.offset
        func append(upTo end: UInt64, isDirty: Bool) {
            let end = min(end, range.end)
            guard end > position, runs.count < limit else { return }
            runs.append(NBDDirtyRun(lengthBytes: end - position, isDirty: isDirty))
            position = end
        }
        for run in dirty {
            append(upTo: run.offset, isDirty: false)
            append(upTo: run.end, isDirty: true)
        }
        append(upTo: range.end, isDirty: false)
        return runs
    }

    func connectionOpened() { opened.add(1, ordering: .sequentiallyConsistent) }
    func connectionClosed() { closed.add(1, ordering: .sequentiallyConsistent) }
}
