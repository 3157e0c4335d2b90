import Foundation
import TestSupport

extension Workload {
    /// What the run is about.
    func perform(_ scenario: Scenario) throws {
        let volume = volumes.randomElement(using: &random)!
        switch scenario {
        case .idle: usleep(20_000)
        case .load: try load(volume, count: Int.random(in: 5...20, using: &random))
        case .freeze: try freezeUnderWrite(volume)
        case .full: try backUp(volumes, level: "full", holds: 2)
        case .incremental: try backUp(volumes, level: nextLevel, holds: 2)
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
        }
    }

    private var image: String { "/volumes/" }

    /// An increment, unless a bitmap may be one that is not trusted.
    var nextLevel: String {
        volumes.allSatisfy { $0.distrusted == nil } ? "incremental" : "auto"
    }

    /// A request that waits for its answer on a thread of its own.
    private struct Pending {
        let request: IssuedWrite
        let call: BackgroundCall
    }

    private func send(
        _ volume: SimulatedVolume, _ sectors: Range<Int>? = nil
    ) throws -> Pending {
        let connection = try agent!.connect(to: volume.name)
        let request = issueWrite(volume, sectors)
        return Pending(
            request: request,
            call: BackgroundCall { try connection.write(request.bytes, at: request.offset) })
    }

    private func receive(_ pending: [Pending], _ volume: SimulatedVolume) throws {
        for write in pending {
            try write.call.finish()
            volume.guest.answer(
                write.request.index, at: notes.note("answer \(write.request.index + 1)"))
        }
    }

    /// A backup begins while a write is on its way to the image, and another comes after it.
    private func freezeUnderWrite(_ volume: SimulatedVolume) throws {
        let first = volume.neighbours(&random).0
        // In another region, which it announces for itself.
        let start = (first.lowerBound + 2048) % (volume.guest.sectorCount - first.count)
        let second = start..<start + first.count
        machine.gates[0].arm(.holdOne, [.write], path: image)
        var pending = [try send(volume, first)]
        _ = machine.gates[0].waitForHold { pending[0].call.isOver(withinMilliseconds: 0) }
        let held = notes.note("held")
        let backup = try beginBackup([volume], level: "incremental")
        // Here it waits for the write, if it is right, and the second waits for the freeze.
        usleep(15_000)
        pending.append(try send(volume, second))
        _ = pending[1].call.isOver(withinMilliseconds: 10)
        machine.gates[0].open()
        try receive(pending, volume)
        try finishBackup(backup)
        windows.append(held..<notes.count)
    }

    /// Two writes into a region that is not announced, while its announcement is being committed.
    private func writeDuringCommit(_ volume: SimulatedVolume) throws {
        // This saves all bitmaps, so that the log is empty.
        try addBitmap("fresh", to: volume)
        let (first, second) = volume.neighbours(&random)
        machine.gates[0].arm(
            .hold, [.write, .sync], path: "catalog.sqlite-wal",
            countdown: Int.random(in: 0...2, using: &random))
        let start = notes.note("slow commit")
        var pending: [Pending] = []
        for sectors in [first, second] {
            pending.append(try send(volume, sectors))
            _ = machine.gates[0].waitForHold(timeoutSeconds: 2) {
                pending.contains { $0.call.isOver(withinMilliseconds: 0) }
            }
            _ = pending.last!.call.isOver(withinMilliseconds: 15)
        }
        let released = notes.note("released")
        windows += Array(repeating: start..<released, count: 4)
        machine.gates[0].open()
        try receive(pending, volume)
    }

    /// A backup is about to copy what a guest overwrites: the old content is on its way to the
    /// fleece when the copy goes on, and when a second write comes, if there is one.
    private func writeDuringBackup(_ volume: SimulatedVolume, isPair: Bool) throws {
        let (first, second) = volume.neighbours(&random)
        try write(volume, first)
        try write(volume, second)
        machine.gates[0].arm(.hold, JournalRecord.Kind.allChanges, path: "/vault/disk-")
        let backup = try beginBackup([volume], level: "full")
        guard try machine.gates[0].waitForHold(unless: { try isOver(backup.id) }) else {
            throw Tool.Failure(description: "the backup made no point")
        }
        backup.freezeIsOver(at: notes.note("held"))
        machine.gates[1].arm(.holdOne, [], path: image, includingReads: true)
        var pending: [Pending] = []
        for sectors in isPair ? [first, second] : [first] {
            pending.append(try send(volume, sectors))
            _ = machine.gates[1].waitForHold(timeoutSeconds: 2) {
                pending.contains { $0.call.isOver(withinMilliseconds: 0) }
            }
            if isPair { _ = pending.last!.call.isOver(withinMilliseconds: 15) }
        }
        if !isPair {
            // The copy reads the same granule now.
            machine.gates[0].open()
            usleep(15_000)
        }
        machine.gates[1].open()
        try receive(pending, volume)
        machine.gates[0].open()
        try finishBackup(backup)
    }

    /// A write of which half reaches the image, and the guest is told that it failed.
    private func failWrite(_ volume: SimulatedVolume) throws {
        try backUp([volume], level: "incremental", holds: 0)
        let start = notes.note("tearing")
        // Announced before, so that only the mark tells that it was written.
        let sectors = volume.neighbours(&random).0
        try write(volume, sectors)
        try backUp([volume], level: "incremental", holds: 0)
        machine.gates[0].arm(.tear, [.write], path: image)
        let request = issueWrite(volume, sectors, mayLeaveAll: true)
        do {
            try volume.connected.write(request.bytes, at: request.offset)
        } catch is GuestConnection.Failure {}
        machine.gates[0].open()
        try settle(volume, request.index)
        try backUp([volume], level: "incremental", holds: 0)
        windows.append(start..<notes.count)
    }

    /// Something else writes the image while the agent is away.
    private func changeBehindAgent(_ volume: SimulatedVolume) throws {
        try stop()
        let request = issueWrite(volume)
        volume.distrusted = notes.count
        try notes.write(request.bytes, at: request.offset, of: volume.path)
        volume.guest.answer(request.index, at: notes.note("answer \(request.index + 1)"))
        volume.guest.flush(issued: notes.note("flush"), answered: notes.note("flushed"))
        try start()
        try load(volume, count: 2)
    }

    private func restart() throws {
        if Bool.random(using: &random) { try stop() } else { try kill() }
        try start()
    }

    /// The agent finds the catalog of the first version, and brings it up to date.
    private func migrate() throws {
        try stop()
        try Tool.check(["/usr/bin/python3", "-c", FirstSchema.script, machine.state])
        try beginAnew()
        let begun = notes.note("migration")
        try start()
        windows.append(begun..<notes.count)
        try load(volumes[0], count: 3)
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

    // MARK: bitmaps

    func addBitmap(_ name: String, to volume: SimulatedVolume, isDisabled: Bool = false) throws {
        let granularity = [4096, 65536].randomElement(using: &random)!
        var bitmap = BitmapHistory(name: name, granularityBytes: granularity)
        let issued = notes.note("add \(name)")
        try control.tell(
            "block-dirty-bitmap-add",
            [
                "node": volume.name, "name": name, "granularity": granularity,
                "persistent": true, "disabled": isDisabled,
            ])
        let answered = notes.note("added")
        bitmap.add(.add, issued: issued, answered: answered)
        if isDisabled { bitmap.add(.disable, issued: answered, answered: answered) }
        volume.bitmaps[name] = bitmap
    }

    private func change(
        _ name: String, of volume: SimulatedVolume, _ verb: BitmapHistory.Verb
    ) throws {
        let issued = notes.note("\(verb) \(name)")
        switch verb {
        case .merge(let source):
            try control.tell(
                "block-dirty-bitmap-merge",
                ["node": volume.name, "target": name, "bitmaps": [source]])
        default:
            try control.tell(
                "block-dirty-bitmap-\(verb)", ["node": volume.name, "name": name])
        }
        let answered = notes.note("changed")
        volume.bitmaps[name]!.add(verb, issued: issued, answered: answered)
        windows.append(issued..<answered)
        // What it saved is to be relied on from here on.
        windows.append(answered..<answered + 4)
    }

    private func merge(_ volume: SimulatedVolume) throws {
        try addBitmap("left", to: volume)
        try addBitmap("right", to: volume, isDisabled: Int.random(in: 0..<4, using: &random) > 0)
        try load(volume, count: 4)
        try change("right", of: volume, .merge(from: "left"))
        try load(volume, count: Int.random(in: 0...1, using: &random))
    }

    private func changeBitmaps(_ volume: SimulatedVolume) throws {
        try addBitmap("late", to: volume)
        for _ in 0..<3 {
            try load(volume, count: Int.random(in: 1...3, using: &random))
            let verb: BitmapHistory.Verb =
                Int.random(in: 0..<4, using: &random) == 0
                ? .clear : volume.bitmaps["late"]!.isRecording ? .disable : .enable
            try change("late", of: volume, verb)
        }
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
