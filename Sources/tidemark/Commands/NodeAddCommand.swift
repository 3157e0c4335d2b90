import ArgumentParser
import Control

/// `tidemark node add`: opens an image or a filter's JSON as a node.
struct NodeAddCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "add",
        abstract: "Open an image file as a node.",
        discussion: """
            A qcow2 image reads what its header names as its backing file where it holds nothing, \
            or the node or volume that --backing names.

            Examples:
              tidemark node add spare /images/spare.qcow2 --format qcow2
              tidemark node add fleece /tmp/fleece.qcow2 --format qcow2 --backing vm1
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "What the node is to be called.")
    var name: String

    @Argument(help: "The image file.")
    var file: String

    @Option(help: "The format of the image: qcow2 or raw. It is never guessed.")
    var format: ImageFormat

    @Flag(help: "Open it for reading only.")
    var readOnly = false

    @Option(help: "The node or volume that a qcow2 image stands on.")
    var backing: String?

    @Flag(help: "Give storage back for what is discarded.")
    var unmap = false

    func validate() throws {
        guard backing == nil || format == .qcow2 else {
            throw ValidationError("--backing: only a qcow2 image stands on another one")
        }
    }

    func run(_ agent: AgentSession) async throws {
        let file = BlockdevReference.opened(
            BlockdevOptions(
                .init(driver: .file), .file(.init(filename: HostPath.absolute(file)))))
        var common = BlockdevCommonOptions(
            driver: format == .raw ? .raw : .qcow2, nodeName: name, readOnly: readOnly)
        common.discard = unmap ? .unmap : nil
        let details: BlockdevDetails =
            format == .raw
            ? .raw(.init(file: file))
            : .qcow2(.init(file: file, backing: backing.map { .named($0) }))
        _ = try await agent.execute(BlockdevAdd.self, BlockdevOptions(common, details))
        agent.console.done("\(name): opened")
    }
}
