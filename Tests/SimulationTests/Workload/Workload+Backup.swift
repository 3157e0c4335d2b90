import Foundation
import TestSupport

extension Workload {
    /// A job ended with an error.
    struct JobFailure: Error, CustomStringConvertible {
        let description: String
    }

    /// A job that was started, and the points that are to come of it.
    struct RunningBackup {
        let id: String
        let points: [SimulatedPoint]

        /// What is requested from now on is not in the points, which are held up after the freeze.
        func freezeIsOver(at moment: Moment) {
            for point in points { point.frozen = min(point.frozen, moment) }
        }
    }

    func beginBackup(_ volumes: [SimulatedVolume], level: String) throws -> RunningBackup {
        let begun = notes.note("backup")
        let started = volumes.map { SimulatedPoint(volume: $0, begun: begun) }
        points += started
        let id = try startJob(
            "volume-backup",
            ["volumes": volumes.map(\.name), "repository": "vault", "level": level])
        return RunningBackup(id: id, points: started)
    }

    func finishBackup(_ backup: RunningBackup) throws {
        let result = try finishJob(backup.id)
        let concluded = notes.note("backed up")
        backup.freezeIsOver(at: concluded)
        let made = result["points"] as? [[String: Any]] ?? []
        for point in backup.points {
            point.id = made.first { $0["volume"] as? String == point.volume.name }?["id"] as? String
            guard point.id != nil else { throw JobFailure(description: "no point: \(result)") }
            point.concluded = concluded
        }
    }

    /// Backs up while guests go on at `holds` places of the copy.
    func backUp(_ volumes: [SimulatedVolume], level: String, holds: Int) throws {
        let gate = machine.gates[0]
        if holds > 0 { armRepository(gate, .hold) }
        let backup = try beginBackup(volumes, level: level)
        for hold in 0..<holds {
            guard try gate.waitForHold(unless: { try isOver(backup.id) }) else { break }
            let held = notes.note("held")
            backup.freezeIsOver(at: held)
            for volume in volumes {
                try load(volume, count: Int.random(in: 1...4, using: &random))
            }
            windows.append(held..<notes.note("released"))
            if hold + 1 < holds { armRepository(gate, .hold) }
        }
        gate.open()
        let released = notes.note("going on")
        try finishBackup(backup)
        windows.append(released..<notes.count)
    }

    func armRepository(_ gate: Gate, _ action: Gate.Action) {
        gate.arm(
            action, JournalRecord.Kind.allChanges, path: "/vault/disk-",
            countdown: Int.random(in: 0..<12, using: &random),
            error: Bool.random(using: &random) ? EIO : ENOSPC)
    }

    /// A backup whose repository fails it, or that is cancelled, while guests go on.
    func failBackup(_ volumes: [SimulatedVolume]) throws {
        armRepository(machine.gates[0], .hold)
        let backup = try beginBackup(volumes, level: "incremental")
        if try machine.gates[0].waitForHold(unless: { try isOver(backup.id) }) {
            let held = notes.note("held")
            backup.freezeIsOver(at: held)
            for volume in volumes { try load(volume, count: 3) }
            decisive.append(held..<notes.count)
            if Bool.random(using: &random) {
                try control.tell("job-cancel", ["id": backup.id])
            } else {
                armRepository(machine.gates[1], .fail)
            }
        }
        machine.gates[0].open()
        do {
            try finishBackup(backup)
        } catch is JobFailure {
            backup.freezeIsOver(at: notes.note("failed"))
        }
        decisive.append(notes.count - 1..<notes.count)
        machine.gates[1].open()
    }

    /// Starts a job and returns its id.
    func startJob(_ command: String, _ arguments: [String: Any]) throws -> String {
        var arguments = arguments
        arguments["auto-dismiss"] = false
        let answer = try control.tell(command, arguments) as? [String: Any]
        return answer?["job-id"] as? String ?? ""
    }

    func isOver(_ job: String) throws -> Bool {
        try control.list("query-jobs", ["id": job]).first?["status"] as? String == "concluded"
    }

    /// Waits for the job's end and returns its result; throws `JobFailure` if it failed.
    @discardableResult
    func finishJob(_ id: String) throws -> [String: Any] {
        defer { settle() }
        return try control.finishJob(id)
    }

    /// Waits until nothing has been recorded for a moment: a job is noted down in the catalog after
    /// its end was told.
    private func settle() {
        var sizes: [Int64] = [-1]
        while sizes.count < 4 {
            var status = stat()
            stat(machine.journalPath, &status)
            sizes =
                sizes.last == Int64(status.st_size)
                ? sizes + [sizes.last!] : [Int64(status.st_size)]
            usleep(1000)
        }
    }
}

extension ControlConnection {
    /// Waits for the job's end and returns its result; throws `JobFailure` if it failed.
    @discardableResult
    func finishJob(_ id: String) throws -> [String: Any] {
        let deadline = Date(timeIntervalSinceNow: 60)
        while true {
            guard let job = try list("query-jobs", ["id": id]).first else {
                throw Tool.Failure(description: "job \(id) is gone")
            }
            if job["status"] as? String == "concluded" {
                try tell("job-dismiss", ["id": id])
                if let error = job["error"] { throw Workload.JobFailure(description: "\(error)") }
                return job["result"] as? [String: Any] ?? [:]
            }
            guard Date() < deadline else {
                throw Tool.Failure(description: "job \(id) does not end: \(job)")
            }
            usleep(1000)
        }
    }
}
