/// The version of the agent.
package enum QueryVersion: ControlCommand {
    package typealias Arguments = Nothing
    package typealias Result = VersionInfo

    package static let name = "query-version"
    package static let summary = "the version of the agent"
}

/// The names of all commands.
package enum QueryCommands: ControlCommand {
    package typealias Arguments = Nothing
    package typealias Result = [CommandName]

    package static let name = "query-commands"
    package static let summary = "the commands that this agent answers"
}

/// Commands, events and types of this interface.
package enum QuerySchema: ControlCommand {
    package typealias Arguments = Nothing
    package typealias Result = [JSONValue]

    package static let name = "query-qmp-schema"
    package static let summary = "the commands, events and types of this interface"
}

/// Ends the agent, orderly: jobs are cancelled, volumes flushed and closed.
package enum Quit: ControlCommand {
    package typealias Arguments = Nothing
    package typealias Result = Nothing

    package static let name = "quit"
    package static let summary = "end the agent after closing every volume"
}

/// A version in the form that QEMU gives its own.
package struct VersionInfo: Codable, Sendable, Equatable {
    package var qemu: VersionTriple
    package var package: String

    package init(qemu: VersionTriple, package: String) {
        self.qemu = qemu
        self.package = package
    }
}

/// Three numbers of a version.
package struct VersionTriple: Codable, Sendable, Equatable {
    package var major: Int
    package var minor: Int
    package var micro: Int

    package init(major: Int, minor: Int, micro: Int) {
        self.major = major
        self.minor = minor
        self.micro = micro
    }
}

/// One line of `query-commands`.
package struct CommandName: Codable, Sendable, Equatable {
    package var name: String

    package init(name: String) { self.name = name }
}
