import ArgumentParser
import Control
import Volumes

/// The image file that a command looks at, without an agent.
struct ImageFile: ParsableArguments {
    @Option(
        name: .customLong("format"),
        help: ArgumentHelp(
            "The format of the file, instead of what its first bytes show.", valueName: "format"))
    var givenFormat: Control.ImageFormat?

    @Argument(help: "The image file.", completion: .file())
    var file: String

    /// The format given, or what the first bytes of the file show.
    func format() throws -> Volumes.ImageFormat {
        guard let givenFormat else { return try ImageOpener.probe(path: file) }
        guard let known = Volumes.ImageFormat(rawValue: givenFormat.rawValue) else {
            throw CommandFailure(
                .usage, "\(file): the format \(givenFormat.rawValue) is not a file's")
        }
        return known
    }
}
