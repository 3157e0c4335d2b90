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

    @OptionGroup var image: ImageFile

    func run() async throws {
        let file = image.file
        let map = try ImageMap(path: file, format: try image.format())
        let extents = try map.extents()
        try global.console.result(JSONValue.array(extents.map(ImageText.document))) {
            ImageText.map(extents)
        }
    }
}
