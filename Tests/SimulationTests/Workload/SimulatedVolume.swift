import TestSupport

/// A volume with what its guest and its users did to it.
final class SimulatedVolume {
    let name: String
    let format: String
    /// The image's file.
    let path: String
    let guest: GuestHistory
    /// When the command that made it was answered.
    let created: Moment
    /// The bitmaps that users made.
    var bitmaps: [String: BitmapHistory] = [:]
    /// Whether it was made to lose no bitmap to a power loss, or only none to a kill.
    let durability: String
    /// When something else than the agent began to change the image, if it did.
    var distrusted: Moment?
    /// When its length and that of its image were not the same for a while: a crash then looks as
    /// if something else had changed a raw image.
    var resizes: [Range<Moment>] = []
    /// While the agent runs.
    var connection: GuestConnection?

    init(
        name: String, format: String, path: String, lengthBytes: Int, durability: String,
        created: Moment
    ) {
        self.name = name
        self.format = format
        self.path = path
        self.durability = durability
        self.created = created
        guest = GuestHistory(lengthBytes: lengthBytes)
    }

    /// The bytes of some sectors; the volume's last one may be short.
    func bytes(of sectors: Range<Int>) -> Range<Int> {
        let sectorBytes = GuestHistory.sectorBytes
        return sectors.lowerBound
            * sectorBytes..<min(sectors.upperBound * sectorBytes, guest.lengthBytes)
    }

    /// Some sectors, of 64 KiB at most; often a whole granule of 64 KiB.
    func someSectors(_ random: inout SplitMix64) -> Range<Int> {
        let granule = 128
        let count = guest.sectorCount
        guard Int.random(in: 0..<3, using: &random) > 0 else {
            let start = Int.random(in: 0...(count - 1) / granule, using: &random) * granule
            return start..<min(start + granule, count)
        }
        let start = Int.random(in: 0..<count, using: &random)
        return start..<min(start + Int.random(in: 1...granule, using: &random), count)
    }

    /// Two ranges of equal length, apart from each other, in one granule of 64 KiB.
    func neighbours(_ random: inout SplitMix64) -> (Range<Int>, Range<Int>) {
        let granule = 128
        let start = Int.random(in: 0..<guest.sectorCount / granule, using: &random) * granule
        return (start + 3..<start + 40, start + 71..<start + 108)
    }

    /// The same in one block of 4 KiB, the unit in which a write keeps old content for a backup.
    func blockMates(_ random: inout SplitMix64) -> (Range<Int>, Range<Int>) {
        let block = 8
        let start = Int.random(in: 0..<guest.sectorCount / block, using: &random) * block
        return (start + 1..<start + 4, start + 5..<start + 8)
    }
}

/// A backup that was asked for, and the point of one volume that came or was to come of it.
final class SimulatedPoint {
    let volume: SimulatedVolume
    /// The backup was asked for.
    let begun: Moment
    /// The freeze was over by then: a later request is not in the point.
    var frozen: Moment = .max
    /// The backup was known to have succeeded.
    var concluded: Moment?
    var id: String?

    init(volume: SimulatedVolume, begun: Moment) {
        self.volume = volume
        self.begun = begun
    }
}
