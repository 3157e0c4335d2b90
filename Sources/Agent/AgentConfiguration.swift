import BlockCore
package import Logging

/// What an agent needs to know before it starts.
package struct AgentConfiguration: Sendable {
    /// The folder of the catalog, the sockets and the images that the agent makes.
    package var stateDirectory: String
    package var logLevel: Logger.Level
    /// The bound on the agent's memory (`MemoryBudget`), in bytes.
    package var memoryBytes: UInt64

    package init(
        stateDirectory: String, logLevel: Logger.Level = .info,
        memoryBytes: UInt64 = MemoryBudget.defaultLimitBytes
    ) {
        self.stateDirectory = stateDirectory
        self.logLevel = logLevel
        self.memoryBytes = memoryBytes
    }

    package var controlSocketPath: String { "\(stateDirectory)/control.sock" }
    package var nbdSocketPath: String { "\(stateDirectory)/nbd.sock" }

    /// The URI at which NBD clients find the export by that name.
    func uri(ofExport name: String) -> String { "nbd+unix:///\(name)?socket=\(nbdSocketPath)" }
}
