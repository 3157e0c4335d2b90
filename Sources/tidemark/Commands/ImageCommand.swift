import ArgumentParser

/// `tidemark image`: the commands on image files, which need no agent.
struct ImageCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "image",
        abstract: "Look at image files, check them, and repair them, without an agent.",
        discussion: """
            Nothing else may be writing the file meanwhile: neither a running machine nor the agent.

            Example:
              tidemark image check /srv/vm1.qcow2
            """,
        subcommands: [ImageCheckCommand.self, ImageInfoCommand.self, ImageMapCommand.self])
}
