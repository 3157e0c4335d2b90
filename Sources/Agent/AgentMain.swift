import BlockCore
import Catalog
import Control
import Jobs
import Logging
import NBDServer
import Nodes
import ServiceLifecycle
import Synchronization
import UnixSignals
import Volumes

// An agent's life.
//
//   lock the state directory, open the catalog
//   open the volumes          marks what was announced before a crash
//   serve NBD                 from here on there are guests
//   settle frozen bitmaps     promotes or undoes what a crash left of backups; what its repository
//                             holds up goes on in the background
//   let jobs go on            that can, in the background, streams and mirrors; others are shown as
//                             interrupted
//   serve control
//   …                         until SIGTERM, SIGINT or `quit`
//   stop jobs, stop NBD       requests in flight end, their replies are sent
//   close the volumes         data flushed, bitmaps saved, activity log emptied
//
// What is interrupted anywhere in here is what a crash is, and the next start recovers from it.

/// The composition root: makes the parts of an agent and runs them.
package enum AgentMain {
    /// Runs an agent until it is told to stop.
    package static func run(configuration: AgentConfiguration) async throws {
        var log = Logger(label: "tidemark") { StreamLogHandler.standardError(label: $0) }
        log.logLevel = configuration.logLevel
        DescriptorLimit.raise()
        MemoryBudget.shared.limitBytes = configuration.memoryBytes
        try HostDirectory.create(configuration.stateDirectory)
        let lock = try StateDirectoryLock(directory: configuration.stateDirectory)
        defer { withExtendedLifetime(lock) {} }
        let agent = try await start(configuration, log)

        let nbd = NBDServer(
            socketPath: configuration.nbdSocketPath, exports: agent.exports.table,
            report: { [log] message in log.info("NBD: \(message)") })
        try nbd.start()
        let heartbeat = Task { await beat(agent) }
        let recovery = await recover(agent)
        agent.overlays.register(with: agent.revival)
        agent.chains.register(with: agent.revival)
        agent.registerMirrorRevival()
        let interrupted = await agent.revival.takeStock()
        await agent.reclaimBitmaps(for: interrupted)
        await dropWorkingBitmaps(agent, but: interrupted.compactMap(\.resumption.bitmapID))
        let streams = Task {
            await agent.revival.resume(interrupted)
            await agent.overlays.resume()
            await agent.backingModes.resume()
        }
        var failure: (any Error)?
        do {
            try await serveControl(agent, nbd)
        } catch {
            failure = error
        }
        Readiness.notify("STOPPING=1")
        recovery.cancel()
        streams.cancel()
        await agent.jobs.stop()
        await agent.secondSocket.stopIfRunning()
        await nbd.stop()
        let unclean = await agent.nodes.closeAll() + agent.volumes.closeAll()
        // Not earlier: closing may take long, and writes to the images.
        heartbeat.cancel()
        for error in unclean { log.error("something was not closed cleanly: \(error)") }
        if let error = failure ?? unclean.first { throw error }
        log.notice("stopped")
    }

    private static func start(
        _ configuration: AgentConfiguration, _ log: Logger
    ) async throws -> Agent {
        let catalog = try Catalog(directory: configuration.stateDirectory)
        let queue = CatalogQueue(catalog: catalog)
        try await takePlace(configuration, queue)
        let volumes = VolumeStore(queue: queue, stateDirectory: configuration.stateDirectory)
        let repositories = RepositoryStore(queue: queue)
        try await volumes.openAll()
        for (name, reason) in await volumes.unavailable() {
            log.error("volume \(name) is not served: \(reason)")
        }
        for volume in await volumes.volumes() {
            guard let doubt = volume.doubt else { continue }
            log.warning("the bitmaps of volume \(volume.name) are not trusted any more: \(doubt)")
        }
        let events = QMPEventHub()
        let jobs = JobStore(
            report: { events.broadcast(job: $0) },
            record: { history in await record(history, queue, log) })
        let exports = ExportStore()
        let fleeceBudget = FleeceBudget(
            memoryBytes: configuration.fleeceMemoryBytes,
            spillBytes: configuration.fleeceDiskBytes)
        let agent = Agent(
            configuration: configuration, log: log, queue: queue, volumes: volumes,
            nodes: NodeStore(
                volumes: volumes, fleece: Agent.fleece(configuration, fleeceBudget)),
            repositories: repositories, jobs: jobs, exports: exports,
            secondSocket: SecondNBDSocket(exports: exports.table, log: log),
            overlays: PointOverlays(
                queue: queue, volumes: volumes, repositories: repositories, jobs: jobs,
                stateDirectory: configuration.stateDirectory, log: log),
            revival: JobRevival(queue: queue, jobs: jobs, log: log),
            events: events,
            copies: CatalogCopies(
                catalog: catalog, stateDirectory: configuration.stateDirectory, log: log),
            recovery: Recovery(
                volumes: await volumes.volumes(), repositories: repositories, log: log),
            fleeceBudget: fleeceBudget)
        for volume in await volumes.volumes() { try await agent.export(volume) }
        return agent
    }

    /// Makes the state directory this agent's: says so in the catalog, and removes what a crash
    /// left of copies of it.
    private static func takePlace(
        _ configuration: AgentConfiguration, _ queue: CatalogQueue
    ) async throws(BlockError) {
        let directory = configuration.stateDirectory
        try CatalogCopies.sweep(directory)
        try await queue.change("use the catalog") { (transaction) throws(CatalogError) in
            try transaction.setPlace(machineID: MachineID.read(), stateDirectory: directory)
        }
    }

    /// Records from time to time that the volumes are open, and tidies their activity logs, until
    /// the task is cancelled.
    private static func beat(_ agent: Agent) async {
        while true {
            do { try await Task.sleep(for: VolumeStore.heartbeatInterval) } catch { return }
            do throws(BlockError) { try await agent.volumes.beat() } catch {
                agent.log.warning("the heartbeat was not recorded: \(error)")
            }
            do throws(BlockError) { try await agent.volumes.retireCold() } catch {
                agent.log.warning("cold regions stay in the activity log: \(error)")
            }
        }
    }

    /// Starts the recovery and gives it a moment, so that commands normally find it done.
    private static func recover(_ agent: Agent) async -> Task<Void, Never> {
        let done = DoneFlag()
        let task = Task { await agent.recovery.run(firstDone: { done.set() }) }
        let end = ContinuousClock.now + .seconds(10)
        while !done.isSet, ContinuousClock.now < end {
            try? await Task.sleep(for: .milliseconds(2))
        }
        return task
    }

    /// Ends what interrupted jobs recorded that do not go on.
    private static func dropWorkingBitmaps(_ agent: Agent, but kept: [Int64]) async {
        for volume in await agent.volumes.volumes() {
            for working in volume.workingBitmaps where !kept.contains(working.id) {
                do throws(BlockError) { try await volume.endWorkingBitmap(working) } catch {
                    agent.log.warning(
                        "what job \(working.jobID) recorded is still being recorded: \(error)",
                        metadata: ["volume": "\(volume.name)"])
                }
            }
        }
    }

    /// Answers commands until a signal or `quit` ends it.
    private static func serveControl(_ agent: Agent, _ nbd: NBDServer) async throws {
        let stop = StopRequest()
        var table = CommandTable()
        agent.registerVolumeCommands(in: &table)
        agent.registerBitmapCommands(in: &table)
        agent.registerNodeCommands(in: &table)
        agent.registerExportCommands(in: &table)
        agent.registerNBDServerCommands(in: &table)
        agent.registerRepositoryCommands(in: &table)
        agent.registerPointCommands(in: &table)
        agent.registerStreamCommands(in: &table)
        agent.registerCommitCommands(in: &table)
        agent.registerMirrorCommands(in: &table)
        agent.registerTargetBackupCommands(in: &table)
        agent.registerJobCommands(in: &table)
        agent.registerTransactionCommand(in: &table)
        agent.registerProblemCommands(in: &table)
        let isQuit = DoneFlag()
        table.register(Quit.self) { _ in
            isQuit.set()
            await stop.request()
            return Nothing()
        }
        let log = agent.log
        let server = QMPServer(
            socketPath: agent.configuration.controlSocketPath, commands: table,
            events: agent.events, log: log,
            onListening: {
                log.notice("ready in \(agent.configuration.stateDirectory)")
                Readiness.notify("READY=1")
            })
        let group = ServiceGroup(
            services: [
                ControlService(server: server) {
                    agent.events.broadcast(shutdownBy: isQuit.isSet ? .quit : .signal)
                }
            ],
            gracefulShutdownSignals: [.sigterm, .sigint], logger: log)
        await stop.set { await group.triggerGracefulShutdown() }
        try await group.run()
    }

    private static func record(
        _ history: JobHistory, _ queue: CatalogQueue, _ log: Logger
    ) async {
        do throws(BlockError) {
            try await queue.change("record job \(history.id)") {
                (transaction) throws(CatalogError) in
                try transaction.upsertJob(JobRecord(history))
            }
        } catch {
            log.warning("\(error)")
        }
    }
}

/// The control socket as a service that ends when the agent is told to.
private struct ControlService: Service {
    let server: QMPServer
    /// Tells clients that this is the end; they get that before the server lets them go.
    let sayFarewell: @Sendable () -> Void

    func run() async throws {
        try await withGracefulShutdownHandler {
            try await cancelWhenGracefulShutdown { try await server.run() }
        } onGracefulShutdown: {
            sayFarewell()
        }
    }
}

/// Connects the `quit` command to what it ends, which is made after it.
private actor StopRequest {
    private var action: (@Sendable () async -> Void)?

    func set(_ action: @escaping @Sendable () async -> Void) { self.action = action }

    func request() async { await action?() }
}

/// Whether something is over, for whoever looks from time to time.
private final class DoneFlag: Sendable {
    private let flag = Atomic<Bool>(false)

    var isSet: Bool { flag.load(ordering: .acquiring) }

    func set() { flag.store(true, ordering: .releasing) }
}
