import Foundation
import TestSupport

// Ends of the agent, and its starts after them.

extension Workload {
    /// Something else writes the image while the agent is away.
    func changeBehindAgent(_ volume: SimulatedVolume) throws {
        try stop()
        let request = issueWrite(volume)
        volume.distrusted = notes.count
        try notes.write(request.bytes, at: request.offset, of: volume.path)
        volume.guest.answer(request.index, at: notes.note("answer \(request.index + 1)"))
        volume.guest.flush(issued: notes.note("flush"), answered: notes.note("flushed"))
        try start()
        try load(volume, count: 2)
    }

    func restart() throws {
        if Bool.random(using: &random) { try stop() } else { try kill() }
        try start()
    }

    /// The agent finds the catalog of the first version, and brings it up to date.
    func migrate() throws {
        try stop()
        try FirstSchema.apply(to: machine.state)
        try beginAnew()
        let begun = notes.note("migration")
        try start()
        decisive.append(begun..<notes.count)
        try load(volumes[0], count: 3)
    }

    /// Writes of volumes that a power loss takes the bitmaps from, and a kill nothing.
    func runUntilCrash(_ volume: SimulatedVolume) throws {
        let begun = notes.note("load")
        try load(volume, count: Int.random(in: 4...8, using: &random))
        if Bool.random(using: &random) {
            try kill()
            try start()
            try load(volume, count: 2)
        }
        decisive.append(begun..<notes.count)
    }

    /// A power loss, mostly in the middle of a backup; the crashes of the run are in what the agent
    /// does to recover from it.
    func losePowerTwice(_ volume: SimulatedVolume) throws {
        try addBitmap("fresh", to: volume)
        if Int.random(in: 0..<4, using: &random) > 0 {
            armRepository(machine.gates[0], .hold)
            let backup = try beginBackup(volumes, level: "incremental")
            _ = try machine.gates[0].waitForHold { try isOver(backup.id) }
            backup.freezeIsOver(at: notes.note("held"))
        }
        try load(volume, count: Int.random(in: 2...5, using: &random))
        if Bool.random(using: &random) { try flush(volume) }
        try write(volume)
        try losePower()
        let lost = notes.note("power lost")
        notes.note("power back")
        try beginAnew()
        try start()
        for volume in volumes {
            let bytes = try volume.connected.read(volume.bytes(of: 0..<volume.guest.sectorCount))
            try volume.guest.observe(SectorImage(bytes, seams: volume.guest.seams), at: lost)
        }
        let started = notes.count - 1
        decisive = [firstNote..<started, started..<notes.note("recovered") + 1]
    }
}
