package import BlockCore
import DriverQcow2
import DriverRaw
import Glibc

/// The formats of image files that volumes can have.
package enum ImageFormat: String, Sendable, CaseIterable {
    case qcow2
    case raw
}

/// Opens image files with the chain of nodes behind them.
package enum ImageOpener {
    /// No chain is longer; a longer one is taken for a loop.
    private static let chainDepthMax = 200

    /// Opens `path` in the format given, and read-only whatever it names as its backing.
    ///
    /// The format of a backing file is what the header above it says, never a guess: a guest that
    /// can write a raw image could make it look like another format.
    package static func open(
        path: String, format: ImageFormat, readOnly: Bool, pool: IOPool, depth: Int = 0
    ) throws(BlockError) -> any BlockDevice {
        switch format {
        case .raw:
            return try RawDevice.open(path: path, readOnly: readOnly, pool: pool)
        case .qcow2:
            guard depth < chainDepthMax else {
                throw BlockError(
                    .corrupt, "open", on: path,
                    detail: "the backing chain is longer than \(chainDepthMax): a loop?")
            }
            var backing: (any BlockDevice)?
            if let reference = try Qcow2Device.readHeader(path: path).backing {
                backing = try open(
                    path: resolve(reference.name, from: path),
                    format: backingFormat(of: reference, in: path), readOnly: true, pool: pool,
                    depth: depth + 1)
            }
            if !readOnly { try Qcow2Check.repairIfDirty(path: path) }
            return try Qcow2Device.open(
                path: path, readOnly: readOnly, backing: backing, pool: pool)
        }
    }

    /// The files of the chain of `path`, top first.
    package static func chain(
        path: String, format: ImageFormat
    ) throws(BlockError) -> [(path: String, format: ImageFormat)] {
        var chain = [(path: path, format: format)]
        while let last = chain.last, last.format == .qcow2, chain.count <= chainDepthMax,
            let reference = try Qcow2Device.readHeader(path: last.path).backing
        {
            chain.append(
                (
                    resolve(reference.name, from: last.path),
                    try backingFormat(of: reference, in: last.path)
                ))
        }
        return chain
    }

    /// The format that the first bytes of `path` show. For a file that a user names, once; never
    /// for one that a guest may have written since.
    package static func probe(path: String) throws(BlockError) -> ImageFormat {
        let file = try HostFile(path: path, access: .readOnly)
        var magic: [UInt8] = [0, 0, 0, 0]
        try magic.withMutableBytes { (bytes) throws(BlockError) in
            try file.read(at: 0, into: bytes)
        }
        return magic == [0x51, 0x46, 0x49, 0xfb] ? .qcow2 : .raw
    }

    /// `name` as the header of `path` means it: relative to the folder of `path`.
    package static func resolve(_ name: String, from path: String) -> String {
        guard !name.hasPrefix("/"), let slash = path.lastIndex(of: "/") else { return name }
        return path[...slash] + name
    }

    private static func backingFormat(
        of backing: Qcow2Backing, in path: String
    ) throws(BlockError) -> ImageFormat {
        guard let name = backing.format else {
            throw BlockError(
                .unsupported, "open the backing file", on: path,
                detail: "the image does not record the format of \(backing.name): "
                    + "record it with `qemu-img rebase -u -b \(backing.name) -F FORMAT \(path)`")
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
