/// Tells what the agent's memory is used for.
package enum QueryMemory: ControlCommand {
    package typealias Arguments = Nothing
    package typealias Result = MemoryInfo

    package static let name = "query-memory"
    package static let summary = "the bound on the agent's memory, and what is taken of it"
}

/// Memory that counts against the bound, in bytes.
package struct MemoryInfo: Codable, Sendable, Equatable {
    package var limit: UInt64
    package var requests: UInt64
    package var fleeces: UInt64
    package var caches: UInt64
    package var jobs: UInt64

    package init(
        limit: UInt64, requests: UInt64, fleeces: UInt64, caches: UInt64, jobs: UInt64
    ) {
        self.limit = limit
        self.requests = requests
        self.fleeces = fleeces
        self.caches = caches
        self.jobs = jobs
    }
}
