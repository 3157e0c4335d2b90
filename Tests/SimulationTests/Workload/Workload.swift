import Foundation
import TestSupport

// One run of an agent under a workload that depends on the seed alone.
//
// Commands and requests follow one another, and where the agent does something by itself, such as
// the copy of a backup, a gate holds it up while guests go on: so one seed makes one journal, but
// for names and times. `notes` says when the guests and users learned what.

/// What a run is mostly about.
enum Scenario: Int, CaseIterable {
    case idle, load, freeze, full, incremental, failedBackup, restore, merge, bitmaps, migration
    case restart, slowCommit, slowKeep, overlap, failedWrite, stranger
    case resize, retirement, process, twoLosses, zeroes
}

/// A run in progress, and what is known of it.
final class Workload {
    let machine: Machine
    let scenario: Scenario
    let mutant: String?
    let notes: NoteWriter
    var random: SplitMix64
    private(set) var agent: RecordedAgent?
    var volumes: [SimulatedVolume] = []
    var points: [SimulatedPoint] = []
    var restores: [SimulatedRestore] = []
    /// What was on the disk when the journal began, and how many notes there were before.
    private(set) var base = DiskState()
    private(set) var firstNote: Moment = 0
    /// Times at which the agent was held up, or did what the scenario is about: crashes are most
    /// interesting there.
    var windows: [Range<Moment>] = []
    /// Those at which a broken rule would show: some crashes of each run are there.
    var decisive: [Range<Moment>] = []
    /// Which boot of the host the agent ran in at last.
    private(set) var boot = 0
    /// Whether the volumes are closed cleanly from a moment on; nil for not known.
    private var lives: [(moment: Moment, isClean: Bool?)] = []

    init(seed: UInt64, scenario: Scenario, mutant: String?) throws {
        self.scenario = scenario
        self.mutant = mutant
        random = SplitMix64(seed: seed)
        machine = try Machine()
        base = try DiskState(readingFrom: machine.root)
        notes = try NoteWriter(journal: machine.journalPath)
    }

    /// Runs all of it. What is not as it should be is thrown.
    func run() throws {
        try setUp()
        let start = notes.note("scenario \(scenario)")
        try perform(scenario)
        windows.append(start..<notes.note("scenario over"))
        let own = decisive
        if Bool.random(using: &random) {
            try perform([.load, .incremental, .restart].randomElement(using: &random)!)
        }
        decisive = own
        // It must hold all that those did that went on meanwhile.
        try backUp(volumes, level: nextLevel, holds: 0)
        try load(volumes[0], count: 2)
        // What is in flight in the background ends before the files are looked at.
        try stop()
    }

    private func setUp() throws {
        try start()
        try control.tell("repository-init", ["name": "vault", "location": machine.vault])
        // One volume of each format, of odd lengths.
        for format in Bool.random(using: &random) ? ["raw", "qcow2"] : ["qcow2", "raw"] {
            try addVolume(format)
            if Int.random(in: 0..<3, using: &random) > 0 { break }
        }
        // A failed write shows in a raw image, and only there is half of one seen.
        if [.failedWrite, .stranger].contains(scenario), volumes.allSatisfy({ $0.format != "raw" })
        {
            try addVolume("raw")
        }
        try connect()
        for volume in volumes {
            if Bool.random(using: &random) { try addBitmap("early", to: volume) }
            try load(volume, count: Int.random(in: 2...8, using: &random))
        }
        try backUp(volumes, level: "full", holds: 0)
        for volume in volumes { try load(volume, count: Int.random(in: 0...4, using: &random)) }
    }

    private func addVolume(_ format: String) throws {
        let name = "disk-\(format)"
        let lengthBytes =
            Int.random(in: 2...6, using: &random) << 20
            + [0, 512, 4096, 4321].randomElement(using: &random)!
        let durability = scenario == .process ? "process" : "power"
        try control.tell(
            "volume-create",
            ["name": name, "size": lengthBytes, "format": format, "durability": durability])
        volumes.append(
            SimulatedVolume(
                name: name, format: format, path: "\(machine.state)/volumes/\(name).\(format)",
                lengthBytes: lengthBytes, durability: durability,
                created: notes.note("created \(name)")))
    }

    // MARK: the agent's life

    var control: ControlConnection {
        get throws {
            guard let agent else { throw Tool.Failure(description: "no agent is running") }
            return agent.control
        }
    }

    func start() throws {
        let isClean = lives.last?.isClean ?? true
        lives.append((notes.note("start"), isClean ? nil : false))
        agent = try RecordedAgent(on: machine, mutant: mutant)
        lives.append((notes.note("started"), false))
        try connect()
    }

    private func connect() throws {
        for volume in volumes where volume.connection == nil {
            volume.connection = try agent?.connect(to: volume.name)
        }
    }

    /// Ends the agent as an operator does: all is durable then.
    func stop() throws {
        let issued = notes.note("stop")
        try agent?.stop()
        agent = nil
        let answered = notes.note("stopped")
        lives += [(issued, nil), (answered, true)]
        for volume in volumes {
            volume.connection = nil
            volume.guest.flush(issued: issued, answered: answered)
        }
    }

    /// Kills it at an instant at which nothing is in the middle of a record.
    func kill() throws {
        machine.gates[0].arm(.hold, JournalRecord.Kind.allChanges, path: "")
        usleep(3000)
        agent?.kill()
        agent = nil
        for gate in machine.gates { gate.forgetHeld() }
        for volume in volumes { volume.connection = nil }
        notes.note("killed")
    }

    /// The host goes down, and what it leaves is what the next journal begins on.
    func losePower() throws {
        try kill()
        let journal = try FileJournal(path: machine.journalPath, root: machine.root)
        let rewriter = try DiskRewriter(
            root: machine.root, inodes: base.inodes.union(journal.records.map(\.inode)))
        try rewriter.apply(
            Crash.powerLoss.state(of: journal, on: base, cut: journal.records.count, &random))
        boot += 1
        try machine.setBoot(boot)
    }

    /// What the agent that starts after a crash at `now` has to think of a volume's bitmaps.
    func trust(in volume: SimulatedVolume, at now: Moment, isPowerLoss: Bool) -> Trust {
        if let distrusted = volume.distrusted { return now < distrusted ? .full : .open }
        if volume.durability == "process", isPowerLoss {
            return lives.last { $0.moment < now }?.isClean == false ? .none : .open
        }
        let isBetween = volume.format == "raw" && volume.resizes.contains { $0.contains(now) }
        return isBetween ? .open : .full
    }

    enum Trust {
        /// All are believed.
        case full
        /// They may be believed or not.
        case open
        /// None is believed.
        case none
    }

    /// Begins a new journal on what the disk holds now, with no agent running.
    func beginAnew() throws {
        base = try DiskState(readingFrom: machine.root)
        firstNote = notes.count
        guard truncate(machine.journalPath, 0) == 0 else {
            throw Tool.Failure(description: "cannot empty the journal")
        }
    }
}

extension JournalRecord.Kind {
    /// All that changes files.
    static let allChanges: [Self] = [
        .write, .truncate, .zero, .allocate, .sync, .create, .makeDirectory, .remove, .rename,
        .link, .syncDirectory,
    ]
}
