import Foundation

@testable import Control

/// An agent with one job whose course a test decides.
final class MockAgent: Sendable {
    /// The jobs that were dismissed, and what else was asked, in order.
    let requests = Recorder<String>()
    private let conclusions: [JobInfo]
    private let polls = Recorder<Void>()
    private let cancellations = Recorder<Void>()
    private let runningPolls: Int?

    /// An agent whose job runs for `runningPolls` looks, then is `conclusion`. With no bound it
    /// runs until it is cancelled.
    init(runningPolls: Int?, conclusion: JobInfo) {
        var running = conclusion
        running.status = .running
        running.error = nil
        running.result = nil
        conclusions = [running, conclusion]
        self.runningPolls = runningPolls
    }

    /// Whether anybody looked at the job.
    var wasAsked: Bool { !polls.all.isEmpty }

    /// What a test's server answers.
    var table: CommandTable {
        var table = CommandTable()
        table.register(VolumeBackup.self) { [self] arguments in
            requests.append("backup \(arguments.volumes.joined(separator: " "))")
            if arguments.repository == "none" {
                throw ControlError("there is no repository 'none'", reason: .noSuchRepository)
            }
            if arguments.repository == "held" {
                throw ControlError("repository 'held' is in use", reason: .locked)
            }
            return StartedJob(jobID: conclusions[1].id)
        }
        table.register(QueryJobs.self) { [self] _ in
            polls.append(())
            let isOver = runningPolls.map { polls.all.count > $0 } ?? !cancellations.all.isEmpty
            return [conclusions[isOver ? 1 : 0]]
        }
        table.register(JobCancel.self) { [self] job in
            requests.append("cancel \(job.id)")
            cancellations.append(())
            return Nothing()
        }
        table.register(JobDismiss.self) { [self] job in
            requests.append("dismiss \(job.id)")
            return Nothing()
        }
        table.register(QueryRepositories.self) { _ in
            [
                RepositoryInfo(
                    name: "main", uuid: "u", location: "/r", points: 3,
                    storedBytes: 1_610_612_736, available: true)
            ]
        }
        return table
    }
}

/// The built command line, run as a process.
struct Tool {
    var status: Int32
    var output: String
    var errors: String

    private static var path: String {
        let tests = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe"))
        return URL(fileURLWithPath: tests ?? "").deletingLastPathComponent()
            .appendingPathComponent("tidemark").path
    }

    /// Runs it with `arguments` on the state directory `state`. `whileRunning` gets the process
    /// id.
    static func run(
        state: String, _ arguments: [String],
        whileRunning: @escaping @Sendable (Int32) async -> Void = { _ in }
    ) async throws -> Tool {
        let process = Process()
        let (output, errors) = (Pipe(), Pipe())
        process.executableURL = URL(fileURLWithPath: path)
        process.arguments = ["--state", state] + arguments
        process.standardOutput = output
        process.standardError = errors
        try process.run()
        let pid = process.processIdentifier
        async let printed = onOwnThread { output.fileHandleForReading.readDataToEndOfFile() }
        async let complained = onOwnThread { errors.fileHandleForReading.readDataToEndOfFile() }
        await whileRunning(pid)
        let texts = await [printed, complained].map { String(decoding: $0, as: UTF8.self) }
        process.waitUntilExit()
        let status = process.terminationStatus
        return Tool(status: status, output: texts[0], errors: texts[1])
    }

    /// The one JSON document on standard output.
    var document: JSONValue? { try? JSONParser.parse(Array(output.utf8)) }
}
