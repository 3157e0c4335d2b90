import ArgumentParser

/// `tidemark bitmap`: the commands on one noun.
struct BitmapCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bitmap",
        abstract: "Manage the dirty bitmaps of volumes.",
        discussion: """
            Example:
              tidemark bitmap add vm1 daily --granularity 64K
            """,
        subcommands: [
            BitmapAddCommand.self, BitmapListCommand.self, BitmapShowCommand.self,
            BitmapEnableCommand.self, BitmapDisableCommand.self, BitmapClearCommand.self,
            BitmapMergeCommand.self, BitmapRemoveCommand.self,
        ])
}
