import BlockCore
import Catalog
import Control
import Jobs
import Logging
import NBDServer
import Nodes
import Volumes

/// The parts of a running agent, which the commands of the control socket work on.
struct Agent: Sendable {
    let configuration: AgentConfiguration
    let log: Logger
    let queue: CatalogQueue
    let volumes: VolumeStore
    let nodes: NodeStore
    let repositories: RepositoryStore
    let jobs: JobStore
    let exports: ExportStore
    let secondSocket: SecondNBDSocket
    let restores = RunningRestores()
    let overlays: PointOverlays
    let revival: JobRevival
    let events: QMPEventHub
    let copies: CatalogCopies
    let recovery: Recovery
    /// What the backups of all volumes together may hold back.
    let fleeceBudget: FleeceBudget

    /// How much old data the backup of a volume may hold back, and where.
    var fleece: FleeceLimits { Self.fleece(configuration, fleeceBudget) }

    static func fleece(
        _ configuration: AgentConfiguration, _ budget: FleeceBudget
    ) -> FleeceLimits {
        var limits = FleeceLimits(directory: configuration.stateDirectory, budget: budget)
        limits.memoryBytes = min(limits.memoryBytes, budget.memoryBytes)
        limits.spillBytes = budget.spillBytes
        return limits
    }

    /// What changes the images of volumes.
    var chains: ChainJobs { ChainJobs(volumes: volumes, jobs: jobs) }

    /// What volumes do about what is below their top.
    var backingModes: BackingModes {
        BackingModes(
            queue: queue, volumes: volumes, jobs: jobs, chains: chains, overlays: overlays,
            log: log)
    }

    /// Offers a volume to NBD clients under its own name, with all its bitmaps.
    func export(_ volume: Volume) async throws(BlockError) {
        try await exports.add(VolumeExport(volume, events: events, log: log))
    }
}
