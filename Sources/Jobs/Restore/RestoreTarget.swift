package import BlockCore
import DriverNBD

extension RestoreJob.Target {
    /// What users name: the URI of an NBD export, or a file.
    package init(named text: String) throws(BlockError) {
        if NBDDevice.isURI(text) {
            self = .export(uri: text)
        } else if text.hasPrefix("rbd:") || text.contains("://") {
            throw BlockError(
                .unsupported, "restore", on: text,
                detail: "a restore goes to a file, to an NBD export (nbd+unix:///NAME?socket=PATH, "
                    + "nbd://HOST/NAME) or with --as-volume to a volume")
        } else {
            self = .file(path: text)
        }
    }

    /// What two restores must not write at the same time.
    package var place: String {
        switch self {
        case .file(let path): path
        case .export(let uri): uri
        case .volume(let name, _): "volume \(name)"
        }
    }
}
