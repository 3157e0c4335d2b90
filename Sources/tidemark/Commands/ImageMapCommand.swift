import ArgumentParser
import Control
import Volumes

/// `tidemark image map`: which file of a chain holds what.
struct ImageMapCommand: AsyncParsableCommand, GlobalOptionsHolder {
    static let configuration = CommandConfiguration(
        commandName: "map",
        abstract: "Show where the content of an image is, through its whole backing chain.",
        discussion: """
            The members of the JSON document are those of `qemu-img map --output=json`.

            Example:
              tidemark image map --json /srv/vm1.qcow2
            """)

    @OptionGroup var global: GlobalOptions

    @Option(
        help: ArgumentHelp(
            "The format of the file, instead of what its first bytes show.", valueName: "format"))
    var format: Control.ImageFormat?

    @Argument(help: "The image file.", completion: .file())
    var file: String

    func run() async throws {
        let map = try ImageMap(path: file, format: try ImageFile.format(file, given: format))
        let extents = try map.extents()
        try global.console.result(JSONValue.array(extents.map(ImageText.document))) {
            ImageText.map(extents)
        }
    }
}
