import CFileJournal
import Foundation
import TestSupport

/// A place at which single operations of a recorded agent can be held up, failed or torn.
///
/// Its memory is shared with the agent; it lives as long as the `GateFile`.
final class Gate {
    /// What is done to the operation that comes.
    enum Action: UInt32 {
        case hold = 1
        case holdOne, fail, tear
    }

    private let memory: UnsafeMutablePointer<file_journal_gate>

    fileprivate init(_ memory: UnsafeMutablePointer<file_journal_gate>) { self.memory = memory }

    /// Waits for an operation of one of `kinds` on a path that contains `path`, the first
    /// `countdown` of which pass.
    func arm(
        _ action: Action, _ kinds: [JournalRecord.Kind], path: String, countdown: Int = 0,
        error: Int32 = EIO, includingReads: Bool = false
    ) {
        open()
        memory.pointee.kinds =
            kinds.reduce(0) { $0 | 1 << $1.rawValue }
            | (includingReads ? 1 << UInt32(FILE_JOURNAL_READ.rawValue) : 0)
        memory.pointee.countdown = Int32(countdown)
        memory.pointee.error = error
        withUnsafeMutableBytes(of: &memory.pointee.path) { place in
            precondition(path.utf8.count < place.count)
            place.initializeMemory(as: UInt8.self, repeating: 0)
            place.copyBytes(from: path.utf8)
        }
        file_journal_store(&memory.pointee.action, action.rawValue)
    }

    /// Lets everything pass again.
    func open() { file_journal_store(&memory.pointee.action, 0) }

    /// The agent is dead, with all that waited here.
    func forgetHeld() {
        open()
        file_journal_store(&memory.pointee.heldCount, 0)
    }

    /// Whether a thread of the agent waits here.
    var isHolding: Bool { file_journal_load(&memory.pointee.heldCount) > 0 }

    /// Whether what it waited for has come.
    var hasStruck: Bool { memory.pointee.countdown < 0 }

    /// Waits until a thread is held, or `isOver`, and tells which.
    func waitForHold(timeoutSeconds: Double = 10, unless isOver: () throws -> Bool) rethrows -> Bool
    {
        let end = Date(timeIntervalSinceNow: timeoutSeconds)
        while !isHolding {
            if try isOver() || Date() > end { return isHolding }
            usleep(300)
        }
        return true
    }
}

/// The memory of the gates.
final class GateFile {
    let path: String
    let gates: [Gate]
    private let memory: UnsafeMutableRawPointer
    private static let sizeBytes =
        MemoryLayout<file_journal_gate>.stride * Int(FILE_JOURNAL_GATES)

    init(path: String) throws {
        self.path = path
        try writeFile(path, [UInt8](repeating: 0, count: Self.sizeBytes))
        let descriptor = open(path, O_RDWR)
        defer { close(descriptor) }
        let mapped = mmap(
            nil, Self.sizeBytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0)
        guard let mapped, mapped != MAP_FAILED else {
            throw Tool.Failure(description: "cannot map \(path)")
        }
        memory = mapped
        let first = mapped.bindMemory(
            to: file_journal_gate.self, capacity: Int(FILE_JOURNAL_GATES))
        gates = (0..<Int(FILE_JOURNAL_GATES)).map { Gate(first + $0) }
    }

    deinit { munmap(memory, Self.sizeBytes) }
}
