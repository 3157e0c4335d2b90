import BlockCore
import NBDServer
import Synchronization
import Volumes

/// A volume as NBD clients see it, with all its bitmaps.
final class VolumeExport: NBDExport {
    let volume: Volume
    private let connections = Atomic<Int>(0)

    init(_ volume: Volume) {
        self.volume = volume
    }

    var name: String { volume.name }
    var description: String { "volume \(volume.name) (\(volume.uuid))" }
    var device: any BlockDevice { volume }
    var isReadOnly: Bool { volume.isReadOnly }
    var bitmapNames: [String] { volume.bitmapStatuses().map(\.name) }

    /// How many clients use it.
    var connectionCount: Int { connections.load(ordering: .relaxed) }

    func dirtyRuns(
        bitmap: String, in range: ByteRange, limit: Int
    ) throws(BlockError) -> [NBDDirtyRun] {
        try volume.dirtyRuns(ofBitmap: bitmap, in: range, limit: limit).map {
            NBDDirtyRun(lengthBytes: $0.range.lengthBytes, isDirty: $0.isDirty)
        }
    }

    func connectionOpened() { connections.wrappingAdd(1, ordering: .relaxed) }

    func connectionClosed() { connections.wrappingSubtract(1, ordering: .relaxed) }
}
