package import BlockCore
import DriverQcow2
import DriverRaw

/// The formats of image files that volumes can have.
package enum ImageFormat: String, Sendable, CaseIterable {
    case qcow2
    case raw
}

/// Opens image files with the chain of nodes behind them.
package enum ImageOpener {
    /// No chain is longer.
    private static let chainDepthMax = 200

    /// Locks and opens `path` in the format given, and read-only whatever it names as its backing.
    /// Blocks.
    ///
    /// The format of a backing file is what the header above it says, never a guess: a guest that
    /// can write a raw image could make it look like another format.
    package static func open(
        path: String, format: ImageFormat, readOnly: Bool, pool: IOPool
    ) throws(BlockError) -> ImageChain {
        ImageChain(
            nodes: try nodes(path: path, format: format, readOnly: readOnly, pool: pool, above: []))
    }

    /// The nodes from `path` down; `above` are the files of which this one is the backing.
    private static func nodes(
        path: String, format: ImageFormat, readOnly: Bool, pool: IOPool,
        above: [HostFile.Identity]
    ) throws(BlockError) -> [ImageNode] {
        if let identity = HostFile.identity(of: path), above.contains(identity) {
            throw BlockError(
                .corrupt, "open", on: path, detail: "the image is its own backing file")
        }
        let lock = try ImageLock(path: path, use: readOnly ? .reading : .writing)
        var below: [ImageNode] = []
        let device: any BlockDevice
        switch format {
        case .raw:
            device = try RawDevice.open(path: path, readOnly: readOnly, pool: pool)
        case .qcow2:
            if let backing = try Qcow2Device.readHeader(path: path).backing {
                below = try nodes(
                    backing: backing, of: path, pool: pool,
                    above: above + [HostFile.identity(of: path)].compactMap { $0 })
            }
            device = try Qcow2Device.open(
                path: path, readOnly: readOnly, backing: below.first?.device, pool: pool)
        }
        guard lock.isInPlace else {
            throw BlockError(
                .busy, "open", on: path, detail: "it was replaced while it was being opened")
        }
        return [ImageNode(path: path, format: format, device: device, lock: lock)] + below
    }

    private static func nodes(
        backing: Qcow2Backing, of path: String, pool: IOPool, above: [HostFile.Identity]
    ) throws(BlockError) -> [ImageNode] {
        guard above.count < chainDepthMax else {
            throw BlockError(
                .unsupported, "open the backing file", on: path,
                detail: "the backing chain is longer than \(chainDepthMax)")
        }
        return try nodes(
            path: resolve(backing.name, from: path), format: format(of: backing, in: path),
            readOnly: true, pool: pool, above: above)
    }

    /// `name` as the header of `path` means it: relative to the folder of `path`.
    static func resolve(_ name: String, from path: String) -> String {
        guard !name.hasPrefix("/"), let slash = path.lastIndex(of: "/") else { return name }
        return path[...slash] + name
    }

    private static func format(
        of backing: Qcow2Backing, in path: String
    ) throws(BlockError) -> ImageFormat {
        guard let name = backing.format else {
            throw BlockError(
                .unsupported, "open the backing file", on: path,
                detail:
                    "the image does not record the format of \(backing.name), and a guess could "
                    + "let a guest choose what is opened: record it with "
                    + "`qemu-img rebase -u -b \(backing.name) -F FORMAT \(path)`")
        }
        guard let format = ImageFormat(rawValue: name) else {
            throw BlockError(
                .unsupported, "open the backing file", on: path,
                detail: "\(backing.name) has the format \(name); "
                    + "the formats known are qcow2 and raw")
        }
        return format
    }
}
