import CFileJournal
import Foundation
import TestSupport

/// The folders of one simulation, and the files by which an agent is recorded and steered.
final class Machine {
    /// What is recorded, and what a crash leaves.
    let root: String
    let journalPath: String
    let gates: [Gate]
    private let directory: TemporaryDirectory
    private let gateFile: GateFile
    private let bootPath: String

    init() throws {
        directory = try TemporaryDirectory()
        let path = URL(fileURLWithPath: directory.path).resolvingSymlinksInPath().path
        root = "\(path)/root"
        journalPath = "\(path)/journal"
        gateFile = try GateFile(path: "\(path)/gates")
        gates = gateFile.gates
        bootPath = "\(path)/boot"
        try setBoot(0)
        try FileManager.default.createDirectory(
            atPath: "\(root)/state", withIntermediateDirectories: true)
    }

    /// Agents that start from now on find the host in its boot of that number.
    func setBoot(_ number: Int) throws { try writeFile(bootPath, Array("boot \(number)".utf8)) }

    var state: String { "\(root)/state" }
    var vault: String { "\(root)/vault" }
    var logPath: String { "\(directory.path)/agent.log" }

    /// A path for what is not recorded.
    func path(_ name: String) -> String { directory.path(name) }

    fileprivate func environment(isRecorded: Bool, mutant: String?) -> [String: String] {
        var environment = ProcessInfo.processInfo.environment
        environment["TIDEMARK_MUTANT"] = mutant
        environment["LD_PRELOAD"] = RecordedAgent.buildPath("libfilejournal.so")
        environment["TIDEMARK_JOURNAL_BOOT_ID"] = bootPath
        guard isRecorded else { return environment }
        environment["TIDEMARK_JOURNAL"] = journalPath
        environment["TIDEMARK_JOURNAL_ROOT"] = root
        environment["TIDEMARK_JOURNAL_GATES"] = gateFile.path
        return environment
    }
}

/// An agent of this build that runs on a machine's folder.
final class RecordedAgent {
    private let process = Process()
    private let machine: Machine
    let control: ControlConnection

    /// Starts it and waits until it answers. Throws with its log if it does not.
    init(on machine: Machine, isRecorded: Bool = true, mutant: String?) throws {
        self.machine = machine
        process.executableURL = URL(fileURLWithPath: Self.buildPath("tidemark"))
        process.arguments = ["--state", machine.state, "agent"]
        process.environment = machine.environment(isRecorded: isRecorded, mutant: mutant)
        process.standardInput = FileHandle.nullDevice
        try Data().write(to: URL(fileURLWithPath: machine.logPath))
        process.standardError = try FileHandle(
            forWritingTo: URL(fileURLWithPath: machine.logPath))
        try process.run()
        let deadline = Date(timeIntervalSinceNow: 30)
        while true {
            if let control = try ControlConnection(socket: "\(machine.state)/control.sock") {
                self.control = control
                return
            }
            guard process.isRunning, Date() < deadline else {
                if process.isRunning { Glibc.kill(process.processIdentifier, SIGKILL) }
                process.waitUntilExit()
                throw Tool.Failure(
                    description: "the agent does not answer:\n\(Self.text(machine.logPath))")
            }
            usleep(2000)
        }
    }

    deinit { kill() }

    var isRunning: Bool { process.isRunning }

    /// What it logged so far.
    var log: String { Self.text(machine.logPath) }

    func connect(to volume: String, bitmaps: [String] = []) throws -> GuestConnection {
        try GuestConnection(
            socket: "\(machine.state)/nbd.sock", export: volume, bitmaps: bitmaps)
    }

    /// Ends it as an operator does. Throws unless it ends well.
    func stop() throws {
        Glibc.kill(process.processIdentifier, SIGTERM)
        process.waitUntilExit()
        guard process.terminationStatus == 0 else {
            throw Tool.Failure(
                description: "the agent ended with status \(process.terminationStatus):\n\(log)")
        }
    }

    func kill() {
        guard process.isRunning else { return }
        Glibc.kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
    }

    /// What was built, by its file's name: the test runner lies beside it.
    static func buildPath(_ name: String) -> String {
        let runner = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
        return runner.deletingLastPathComponent().appendingPathComponent(name).path
    }

    private static func text(_ path: String) -> String {
        (try? String(contentsOfFile: path, encoding: .utf8)) ?? ""
    }
}

/// Appends notes to a journal: each is a moment that all that is recorded lies before or after.
final class NoteWriter {
    private let descriptor: Int32
    private(set) var count: Moment = 0

    init(journal path: String) throws {
        descriptor = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw Tool.Failure(description: "cannot open \(path)") }
    }

    deinit { close(descriptor) }

    /// Returns the number of the note.
    @discardableResult
    func note(_ text: String) -> Moment {
        record(.note, Array(text.utf8))
        count += 1
        return count - 1
    }

    /// Writes to a file, durably, and down in the journal: something else than the agent does it.
    func write(_ bytes: [UInt8], at offset: Int, of path: String) throws {
        let file = open(path, O_WRONLY)
        defer { close(file) }
        var status = stat()
        guard pwrite(file, bytes, bytes.count, offset) == bytes.count, fstat(file, &status) == 0
        else { throw Tool.Failure(description: "cannot write \(path)") }
        record(
            .write, bytes, isDurable: true, inode: UInt64(status.st_ino), offset: offset)
    }

    /// Appends a record as an agent would.
    func record(
        _ kind: JournalRecord.Kind, _ payload: [UInt8] = [], isDurable: Bool = false,
        inode: UInt64 = 0, offset: Int = 0, path: String = ""
    ) {
        var record = file_journal_record()
        record.kind = kind.rawValue
        record.flags = isDurable ? UInt32(FILE_JOURNAL_DURABLE) : 0
        record.inode = inode
        record.offset = UInt64(offset)
        record.length = UInt64(payload.count)
        record.pathBytes = UInt32(path.utf8.count)
        record.payloadBytes = UInt32(payload.count)
        var now = timespec()
        clock_gettime(CLOCK_REALTIME, &now)
        record.nanoseconds = Int64(now.tv_sec) * 1_000_000_000 + Int64(now.tv_nsec)
        let bytes = withUnsafeBytes(of: record) { Array($0) } + Array(path.utf8) + payload
        // One call, so that it does not come to lie within a record of the agent.
        precondition(Glibc.write(descriptor, bytes, bytes.count) == bytes.count)
    }
}
