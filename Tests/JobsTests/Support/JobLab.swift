import BlockCore
import Synchronization
import TestSupport
import Testing

@testable import Jobs

/// A store of jobs whose events are kept.
final class JobLab: Sendable {
    private let sink: EventSink
    let store: JobStore

    init() {
        let sink = EventSink()
        self.sink = sink
        store = JobStore(report: { sink.append($0) }, record: { _ in })
    }

    var events: [JobEvent] { sink.all }

    /// The events in short: states, and the others in capitals.
    var story: [String] { events.map(\.word) }

    /// The events of one job in short.
    func story(of id: String) -> [String] { events.filter { $0.id == id }.map(\.word) }

    func start(
        id: String = "job", autoFinalize: Bool = true, autoDismiss: Bool = false,
        speedBytes: UInt64 = 0, onSourceError: ErrorPolicy = .report,
        onTargetError: ErrorPolicy = .report, _ body: any JobBody
    ) async throws -> Job {
        try await store.start(
            JobOptions(
                id: id, type: .mirror, autoFinalize: autoFinalize, autoDismiss: autoDismiss,
                speedBytes: speedBytes, onSourceError: onSourceError, onTargetError: onTargetError),
            body)
    }

    /// Looks until `condition` holds.
    static func until(
        _ what: String, _ location: SourceLocation = #_sourceLocation,
        _ condition: () -> Bool
    ) async throws {
        let end = ContinuousClock.now + .seconds(20)
        while !condition() {
            guard ContinuousClock.now < end else {
                Issue.record("\(what) did not happen", sourceLocation: location)
                throw BlockError(.timedOut, "wait", on: what)
            }
            try await Task.sleep(for: .milliseconds(1))
        }
    }

    /// Expects that `verb` is refused with exactly that text.
    static func expectRefusal(
        _ text: String, _ location: SourceLocation = #_sourceLocation,
        _ verb: () async throws -> Void
    ) async {
        do {
            try await verb()
            Issue.record("not refused: \(text)", sourceLocation: location)
        } catch {
            #expect("\(error)" == text, sourceLocation: location)
        }
    }
}

/// Something that happens once.
final class Flag: Sendable {
    private let flag = Atomic(false)

    var isSet: Bool { flag.load(ordering: .acquiring) }

    func set() { flag.store(true, ordering: .releasing) }
}

/// Keeps events in their order.
final class EventSink: Sendable {
    private let events = Mutex<[JobEvent]>([])

    var all: [JobEvent] { events.withLock { $0 } }

    func append(_ event: JobEvent) { events.withLock { $0.append(event) } }
}

extension JobEvent {
    var id: String {
        switch self {
        case .statusChange(let id, _), .error(let id, _, _), .pending(let id, _): id
        case .ready(let moment), .cancelled(let moment), .completed(let moment, _): moment.id
        }
    }

    var word: String {
        switch self {
        case .statusChange(_, let status): status.rawValue
        case .ready: "READY"
        case .completed(_, let error): error == nil ? "COMPLETED" : "COMPLETED badly"
        case .cancelled: "CANCELLED"
        case .error(_, let isRead, let action):
            "ERROR \(isRead ? "read" : "write") \(action.rawValue)"
        case .pending: "PENDING"
        }
    }
}

/// A body whose steps a test gives, and which says what was called.
final class ScriptedBody: JobBody {
    typealias Work = @Sendable (Job) async throws(BlockError) -> Void

    private let called = Mutex<[String]>([])
    private let work: Work
    private let preparing: Work
    private let committing: @Sendable (Job) async -> Void
    let isChangeable: Bool

    init(
        isChangeable: Bool = false, prepare: @escaping Work = { _ in },
        commit: @escaping @Sendable (Job) async -> Void = { _ in }, run: @escaping Work
    ) {
        self.isChangeable = isChangeable
        work = run
        preparing = prepare
        committing = commit
    }

    /// The steps that were called, in order.
    var steps: [String] { called.withLock { $0 } }

    private func note(_ step: String) { called.withLock { $0.append(step) } }

    func run(_ job: Job) async throws(BlockError) -> JobResult {
        note("run")
        try await work(job)
        return .verify([])
    }

    func prepare(_ job: Job) async throws(BlockError) {
        note("prepare")
        try await preparing(job)
    }

    func commit(_ job: Job) async {
        note("commit")
        await committing(job)
    }

    func abort(_ job: Job) async { note("abort") }

    func clean(_ job: Job) async { note("clean") }
}

extension ScriptedBody {
    /// Copies a byte at a time until it is given up.
    static var endless: ScriptedBody {
        ScriptedBody { (job) throws(BlockError) in
            while true {
                try await job.pausePoint()
                job.expect(1)
                job.advance(by: 1)
                await Task.yield()
            }
        }
    }

    /// Becomes ready at once, then does what it is asked for.
    static func ready(_ asked: @escaping @Sendable (JobRequest) -> Void = { _ in }) -> ScriptedBody
    {
        ScriptedBody(isChangeable: true) { (job) throws(BlockError) in
            job.expect(7)
            job.becomeReady()
            while true {
                let request = await job.nextRequest()
                asked(request)
                switch request {
                case .complete, .cancelGracefully: return
                case .cancel: throw BlockError(.cancelled, "mirror", on: "test")
                case .change: break
                }
            }
        }
    }

    static var idle: ScriptedBody { ScriptedBody { _ in } }
}
