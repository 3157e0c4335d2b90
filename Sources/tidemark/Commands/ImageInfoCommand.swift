import ArgumentParser
import BlockCore
import Control
import DriverQcow2
import Volumes

/// `tidemark image info`: what an image file says of itself.
struct ImageInfoCommand: AsyncParsableCommand, GlobalOptionsHolder {
    static let configuration = CommandConfiguration(
        commandName: "info",
        abstract: "Show the format, the sizes and the features of an image file.",
        discussion: """
            Example:
              tidemark image info /srv/vm1.qcow2
            """)

    @OptionGroup var global: GlobalOptions

    @OptionGroup var image: ImageFile

    func run() async throws {
        let file = image.file
        let format = try image.format()
        let handle = try HostFile(path: file, access: .readOnly)
        let fileBytes = try handle.sizeBytes()
        let info: Qcow2Info? = format == .qcow2 ? try Qcow2Info(path: file) : nil
        let document = ImageText.document(info, file: file, fileBytes: fileBytes)
        try global.console.result(document) {
            ImageText.info(info, file: file, fileBytes: fileBytes)
        }
    }
}
