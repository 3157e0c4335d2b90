import Foundation
import TestSupport

extension Workload {
    /// What the run is about.
    func perform(_ scenario: Scenario) throws {
        let volume = volumes.randomElement(using: &random)!
        switch scenario {
        case .idle: usleep(20_000)
        case .load: try loadLong(volume)
        case .freeze: try freezeUnderWrite(volume)
        case .full: try backUp(volumes, level: "full", holds: 2)
        case .incremental: try backUpUnderLoad()
        case .failedBackup: try failBackup(volumes)
        case .restore: try restore()
        case .merge: try merge(volume)
        case .bitmaps: try changeBitmaps(volume)
        case .migration: try migrate()
        case .restart: try restart()
        case .slowCommit: try writeDuringCommit(volume)
        case .slowKeep: try writeDuringBackup(volume, isPair: false)
        case .overlap: try writeDuringBackup(volume, isPair: true)
        case .failedWrite: try failWrite(volumes.last { $0.format == "raw" }!)
        case .stranger: try changeBehindAgent(volumes.last { $0.format == "raw" }!)
        case .resize: try resize(volume)
        case .retirement: try retire(volume)
        case .process: try runUntilCrash(volume)
        case .twoLosses: try losePowerTwice(volume)
        case .zeroes: try zeroBetweenBackups(volume)
        }
    }

    var image: String { "/volumes/" }

    /// An increment, unless a bitmap may be one that is not trusted, or of another length.
    var nextLevel: String {
        volumes.allSatisfy { $0.distrusted == nil && $0.resizes.isEmpty } ? "incremental" : "auto"
    }

    private func loadLong(_ volume: SimulatedVolume) throws {
        let begun = notes.count
        try load(volume, count: Int.random(in: 5...20, using: &random))
        decisive.append(begun..<notes.count)
    }

    private func backUpUnderLoad() throws {
        try backUp(volumes, level: nextLevel, holds: 2)
        // What the point has is to stay in the volumes, from the moment that it is there.
        decisive.append(notes.count - 1..<notes.count)
    }

    /// What a point has data of is zeroes in the next one.
    private func zeroBetweenBackups(_ volume: SimulatedVolume) throws {
        let granule = 128
        let first = Int.random(in: 0..<volume.guest.sectorCount / granule - 1, using: &random)
        let (zeroed, discarded) = (
            first * granule..<(first + 1) * granule, (first + 1) * granule..<(first + 2) * granule
        )
        for sectors in [zeroed, discarded] { try write(volume, sectors) }
        try backUp([volume], level: nextLevel, holds: 0)
        try zero(volume, zeroed, isHole: Bool.random(using: &random))
        try trim(volume, discarded)
        try backUp([volume], level: nextLevel, holds: 0)
    }

    private func restore() throws {
        let point = points.filter { $0.id != nil }.randomElement(using: &random)!
        let isVolume = Bool.random(using: &random)
        let begun = notes.note("restore")
        let target = isVolume ? "copy" : "\(machine.root)/restored.raw"
        let restore = SimulatedRestore(point: point, target: target, isVolume: isVolume)
        restores.append(restore)
        let id = try startJob(
            "point-restore",
            [
                "point": point.id!, isVolume ? "as-volume" : "target": target, "format": "raw",
            ])
        try load(volumes[0], count: 3)
        try finishJob(id)
        restore.concluded = notes.note("restored")
        windows.append(begun..<notes.count)
    }

    /// A cut below what the newest point holds, and a growth over it: often to the length of that
    /// point again, on which the next increment then stands.
    private func resize(_ volume: SimulatedVolume) throws {
        let tails = [0, 512, 4096, 4321]
        let oldLength = volume.guest.lengthBytes
        for _ in 0..<Int.random(in: 1...2, using: &random) {
            let present = volume.guest.lengthBytes >> 20
            let short = Int.random(in: 1...max(1, present / 2), using: &random)
            // Something that the cut takes away.
            let end = volume.guest.sectorCount - Int.random(in: 1...64, using: &random)
            try write(volume, end - 64..<end)
            try flush(volume)
            try resize(volume, to: short << 20 + tails.randomElement(using: &random)!)
            if Bool.random(using: &random) { try load(volume, count: 2) }
            let long = present + Int.random(in: 1...3, using: &random)
            let newLength = long << 20 + tails.randomElement(using: &random)!
            try resize(
                volume, to: Int.random(in: 0..<3, using: &random) > 0 ? oldLength : newLength)
            try load(volume, count: Int.random(in: 0...2, using: &random))
        }
    }

    private func resize(_ volume: SimulatedVolume, to lengthBytes: Int) throws {
        // No client may be there when a volume is cut, and none learns of another length.
        volume.connection = nil
        while try control.list("query-volumes", ["name": volume.name])
            .first?["connections"] as? Int != 0
        { usleep(500) }
        let issued = notes.note("resize \(volume.name) \(lengthBytes)")
        let isCut = lengthBytes < volume.guest.lengthBytes
        volume.guest.resize(to: lengthBytes, at: issued)
        // It is held up where its next step is one of the image.
        machine.gates[0].arm(.holdOne, JournalRecord.Kind.allChanges, path: image)
        let call = BackgroundCall {
            [socket = "\(machine.state)/control.sock", name = volume.name] in
            try ControlConnection(socket: socket)?.tell(
                "block_resize", ["node-name": name, "size": lengthBytes, "shrink": true])
        }
        _ = machine.gates[0].waitForHold { call.isOver(withinMilliseconds: 0) }
        let held = notes.note("held")
        let released = notes.note("released")
        machine.gates[0].open()
        try call.finish()
        let answered = notes.note("resized")
        volume.guest.answerResize(at: answered)
        volume.resizes.append(issued + 1..<answered + 1)
        volume.connection = try agent?.connect(to: volume.name)
        windows.append(issued..<answered + 2)
        decisive.append(isCut ? held..<released : answered..<answered + 1)
    }
}

/// A restore of a point to a raw file, or as a volume.
final class SimulatedRestore {
    let point: SimulatedPoint
    let target: String
    let isVolume: Bool
    var concluded: Moment?

    init(point: SimulatedPoint, target: String, isVolume: Bool) {
        self.point = point
        self.target = target
        self.isVolume = isVolume
    }
}
