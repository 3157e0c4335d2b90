import Foundation
import TestSupport

// Writes that meet something else on their way.

extension Workload {
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
    func freezeUnderWrite(_ volume: SimulatedVolume) throws {
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
        usleep(50_000)
        pending.append(try send(volume, second))
        _ = pending[1].call.isOver(withinMilliseconds: 20)
        machine.gates[0].open()
        try receive(pending, volume)
        try finishBackup(backup)
        windows.append(held..<notes.count)
        decisive.append(notes.count - 1..<notes.count)
    }

    /// Two writes into a region that is not announced, while its announcement is being committed:
    /// neither can be answered before that.
    func writeDuringCommit(_ volume: SimulatedVolume) throws {
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
            if pending.last!.call.isOver(withinMilliseconds: 30) {
                try receive([pending.removeLast()], volume)
            }
        }
        // What was answered by here is to be covered, though the commit has come no further.
        let held = notes.note("held")
        let released = notes.note("released")
        windows.append(start..<held)
        decisive.append(held..<released)
        machine.gates[0].open()
        try receive(pending, volume)
    }

    /// A backup is about to copy what a guest overwrites: the old content is on its way to the
    /// fleece when the copy goes on, and when a second write comes, if there is one.
    func writeDuringBackup(_ volume: SimulatedVolume, isPair: Bool) throws {
        let (first, second) =
            isPair ? volume.blockMates(&random) : volume.neighbours(&random)
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
    func failWrite(_ volume: SimulatedVolume) throws {
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

    /// Regions leave the log while a write is on its way into one of them; then another is written
    /// again.
    func retire(_ volume: SimulatedVolume) throws {
        // This saves all bitmaps, so that the log is empty.
        try addBitmap("fresh", to: volume)
        let granule = 128
        let region = 16 * granule
        let places = [0, 8 * granule, region, region + 8 * granule].map { start in
            let first = start + Int.random(in: 0..<7, using: &random) * granule
            return first..<first + granule / 2
        }
        for sectors in [places[0], places[2]] { try write(volume, sectors) }
        machine.gates[0].arm(.holdOne, [.write], path: image)
        let pending = [try send(volume, places[3])]
        _ = machine.gates[0].waitForHold { pending[0].call.isOver(withinMilliseconds: 0) }
        let begun = notes.note("retire")
        try control.tell("x-debug-retire-regions")
        let retired = notes.note("retired")
        machine.gates[0].open()
        try receive(pending, volume)
        let completed = notes.note("completed")
        // In the region that has left the log.
        try write(volume, places[1])
        let written = notes.note("written")
        windows.append(begun..<retired)
        decisive += [completed..<written, written..<written + 1]
    }
}
