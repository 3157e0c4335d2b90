import BlockCore
import Control
import Filters
import Logging
import NBDServer
import Synchronization
import Volumes

/// A volume as NBD clients see it.
final class VolumeExport: AgentExport {
    let id: String
    let name: String
    let description: String
    let isReadOnly: Bool
    let device: any BlockDevice
    private let volume: Volume
    private let chosenBitmaps: [String]?
    private let connections = Atomic<Int>(0)
    private let failures: GuestFailures

    /// The export that every volume has under its own name, with whatever bitmaps there are.
    convenience init(_ volume: Volume, events: QMPEventHub, log: Logger) {
        self.init(
            volume, id: volume.name, name: volume.name, description: nil,
            isReadOnly: volume.isReadOnly, bitmaps: nil, events: events, log: log)
    }

    /// An export with `bitmaps`, which the volume has been told to hold.
    init(
        _ volume: Volume, id: String, name: String, description: String?, isReadOnly: Bool,
        bitmaps: [String]?, events: QMPEventHub, log: Logger
    ) {
        self.volume = volume
        device = GuestVolume(volume)
        failures = GuestFailures(volumeName: volume.name, events: events, log: log)
        self.id = id
        self.name = name
        self.description = description ?? "volume \(volume.name) (\(volume.uuid))"
        self.isReadOnly = isReadOnly
        chosenBitmaps = bitmaps
    }

    var nodeName: String { volume.name }
    var isPoint: Bool { false }
    var connectionCount: Int { connections.load(ordering: .relaxed) }

    /// A bitmap that may miss writes is not offered: clients have no way to see that it does.
    var bitmapNames: [String] {
        volume.bitmapStatuses()
            .filter { $0.inconsistentReason == nil && chosenBitmaps?.contains($0.name) != false }
            .map(\.name)
    }

    func dirtyRuns(
        bitmap: String, in range: ByteRange, limit: Int
    ) throws(BlockError) -> [NBDDirtyRun] {
        try volume.dirtyRuns(ofBitmap: bitmap, in: range, limit: limit).map {
            NBDDirtyRun(lengthBytes: $0.range.lengthBytes, isDirty: $0.isDirty)
        }
    }

    func connectionOpened() { connections.wrappingAdd(1, ordering: .relaxed) }

    func connectionClosed() { connections.wrappingSubtract(1, ordering: .relaxed) }

    func requestFailed(_ failure: NBDRequestFailure) { failures.report(failure) }

    func requestsAnswered(_ count: Int) { volume.guestLoad.note(prompt: count) }

    func requestWaits() { volume.guestLoad.begin() }

    func requestEnded(after duration: Duration) { volume.guestLoad.end(after: duration) }

    func wasRemoved() async {
        if let chosenBitmaps { volume.releaseBitmaps(chosenBitmaps) }
    }
}
