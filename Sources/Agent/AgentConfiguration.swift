import BlockCore
package import Logging

/// What an agent needs to know before it starts.
package struct AgentConfiguration: Sendable {
    /// The folder of the catalog, the sockets and the images that the agent makes.
    package var stateDirectory: String
    package var logLevel: Logger.Level
    /// The bound on the agent's memory (`MemoryBudget`), in bytes.
    package var memoryBytes: UInt64
    /// What of it backups may hold back of what guests overwrite meanwhile.
    package var fleeceMemoryBytes: UInt64
    /// The same, in files of the state directory.
    package var fleeceDiskBytes: UInt64

    package init(
        stateDirectory: String, logLevel: Logger.Level = .info,
        memoryBytes: UInt64 = MemoryBudget.defaultLimitBytes,
        fleeceMemoryBytes: UInt64 = 256 << 20, fleeceDiskBytes: UInt64 = 64 << 30
    ) {
        self.stateDirectory = stateDirectory
        self.logLevel = logLevel
        self.memoryBytes = memoryBytes
        self.fleeceMemoryBytes = fleeceMemoryBytes
        self.fleeceDiskBytes = fleeceDiskBytes
    }

    package var controlSocketPath: String { "\(stateDirectory)/control.sock" }
    package var nbdSocketPath: String { "\(stateDirectory)/nbd.sock" }

    /// The URI at which NBD clients find the export by that name.
    func uri(ofExport name: String) -> String { "nbd+unix:///\(name)?socket=\(nbdSocketPath)" }
}
