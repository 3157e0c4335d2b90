import ArgumentParser

/// `tidemark node`: the commands on one noun.
struct NodeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "node",
        abstract: "Open images and exports beside the volumes.",
        discussion: """
            A node can be exported, and is what mirrors and backups can be told to write. It lasts \
            until it is removed or the agent ends. What filters there are, `tidemark qmp \
            blockdev-add` opens.

            Example:
              tidemark node list
            """,
        subcommands: [NodeAddCommand.self, NodeListCommand.self, NodeRemoveCommand.self])
}
