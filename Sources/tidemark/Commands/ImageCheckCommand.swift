import ArgumentParser
import BlockCore
import Control
import DriverQcow2
import Volumes

/// `tidemark image check`: counts all references in an image's metadata, and repairs.
struct ImageCheckCommand: AsyncParsableCommand, GlobalOptionsHolder {
    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract: "Check the metadata of a qcow2 image, and repair it if asked.",
        discussion: """
            Ends with 0 if the image is in order, with 3 if it has leaks, which cost space and \
            nothing else, and with 1 if it is corrupt. A raw image has no metadata.

            Example:
              tidemark image check --repair leaks /srv/vm1.qcow2
            """)

    @OptionGroup var global: GlobalOptions

    @Option(
        help: ArgumentHelp(
            "Put right what was found: leaks, or all that can be.", valueName: "what"))
    var repair: Qcow2RepairScope?

    @OptionGroup var image: ImageFile

    func run() async throws {
        let file = image.file
        guard try image.format() == .qcow2 else {
            throw CommandFailure(
                .failed, "\(file) is a raw image: it has no metadata that could be checked")
        }
        let report = try check()
        try global.console.result(ImageText.document(report, file: file)) {
            ImageText.report(report)
        }
        switch report.verdict {
        case .clean: return
        case .leaks:
            throw PrintedFailure(
                .partlyDone,
                "\(file): \(report.leakCount) clusters are leaked: "
                    + "get them back with --repair leaks")
        case .corrupt:
            let remedy =
                repair == .all
                ? "restore it from a backup, or copy what can be read with qemu-img convert"
                : "copy the file, then try --repair all"
            throw PrintedFailure(
                .failed, "\(file) is corrupt (\(report.corruptionCount) errors): \(remedy)")
        }
    }

    // A repair has the image to itself: a QEMU that writes it would be working on other tables.
    private func check() throws -> Qcow2CheckReport {
        guard let repair else { return try Qcow2Check.run(path: image.file) }
        let lock = try ImageLock(path: image.file, use: .writing)
        defer { lock.release() }
        return try Qcow2Check.repair(path: image.file, repair)
    }
}

extension Qcow2RepairScope: ExpressibleByArgument {}
