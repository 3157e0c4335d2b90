package import BlockCore
import DriverNBD
import DriverQcow2
import DriverRaw

/// The formats of image files that volumes can have.
package enum ImageFormat: String, Sendable, CaseIterable {
    case qcow2
    case raw
}

/// Opens image files, and exports of NBD servers, with the chain of nodes behind them.
package enum ImageOpener {
    /// No chain is longer.
    private static let chainDepthMax = 200

    /// Locks and opens `path`, a file or the URI of an NBD export, in the format given, and
    /// read-only whatever it names as its backing, as far as `reach` allows. Blocks. With
    /// `isDirect`, which is for raw files, its content bypasses the page cache.
    ///
    /// The format of a backing file is what the header above it says, never a guess: a guest that
    /// can write a raw image could make it look like another format.
    package static func open(
        path: String, format: ImageFormat, readOnly: Bool, isDirect: Bool = false,
        reach: ImageReach = .anywhere, pool: IOPool
    ) throws(BlockError) -> ImageChain {
        guard !isDirect || format == .raw && !NBDDevice.isURI(path) else {
            throw BlockError(
                .unsupported, "open for direct I/O", on: path,
                detail: "only raw files and block devices can bypass the page cache")
        }
        return ImageChain(
            nodes: try nodes(
                path: path, format: format, readOnly: readOnly, isDirect: isDirect,
                within: try ImageFolder(of: path, reach), pool: pool, above: []))
    }

    /// What a qcow2 image reads where it holds nothing, if that is not what its header names.
    package enum BackingChoice: Sendable {
        /// Zeroes.
        case nothing
        /// A device that is open already, and stays its owner's.
        case device(any BlockDevice)
    }

    /// Locks and opens the qcow2 image `path` over what `backing` says, whatever its header names.
    /// Blocks.
    package static func open(
        path: String, over backing: BackingChoice, readOnly: Bool, reach: ImageReach, pool: IOPool
    ) throws(BlockError) -> ImageChain {
        let use: ImageLock.Use = readOnly ? .reading : .writing
        let lock = try ImageLock(path: path, use: use)
        let header = try Qcow2Device.readHeader(path: path)
        var dataLock: ImageLock?
        if header.hasDataFile {
            let dataPath = try Qcow2Device.dataFilePath(header, from: path)
            try ImageFolder(of: path, reach).check(dataPath, of: path)
            dataLock = try ImageLock(path: dataPath, use: use)
        }
        let found = try ImageFingerprint(of: lock, dataFile: dataLock, format: .qcow2)
        if !readOnly { try Qcow2Check.repairIfDirty(path: path) }
        let slot =
            switch backing {
            case .nothing: DetachableBacking(emptyUnder: path)
            case .device(let device): DetachableBacking(device, isLent: true)
            }
        let device = try Qcow2Device.open(
            path: path, readOnly: readOnly, backing: slot, pool: pool)
        return ImageChain(nodes: [
            ImageNode(
                path: path, format: .qcow2, isDirect: false, device: device, lock: lock,
                dataLock: dataLock, backing: slot, found: found)
        ])
    }

    /// The nodes from `path` down; `above` are the files of which this one is the backing.
    private static func nodes(
        path: String, format: ImageFormat, readOnly: Bool, isDirect: Bool,
        within folder: ImageFolder, pool: IOPool, above: [HostFile.Identity]
    ) throws(BlockError) -> [ImageNode] {
        if NBDDevice.isURI(path) {
            return [try exportNode(uri: path, format: format, readOnly: readOnly)]
        }
        if let identity = HostFile.identity(of: path), above.contains(identity) {
            throw BlockError(
                .corrupt, "open", on: path, detail: "the image is its own backing file")
        }
        let use: ImageLock.Use = readOnly ? .reading : .writing
        let lock = try ImageLock(path: path, use: use)
        var dataLock: ImageLock?
        if format == .qcow2 {
            let header = try Qcow2Device.readHeader(path: path)
            if header.hasDataFile {
                let dataPath = try Qcow2Device.dataFilePath(header, from: path)
                try folder.check(dataPath, of: path)
                dataLock = try ImageLock(path: dataPath, use: use)
            }
        }
        let found = try ImageFingerprint(of: lock, dataFile: dataLock, format: format)
        var below: [ImageNode] = []
        let device: any BlockDevice
        var detachable: DetachableBacking?
        switch format {
        case .raw:
            device = try RawDevice.open(
                path: path, readOnly: readOnly, bypassingPageCache: isDirect, pool: pool)
        case .qcow2:
            if let backing = try Qcow2Device.readHeader(path: path).backing {
                below = try nodes(
                    backing: backing, of: path, within: folder, pool: pool,
                    above: above + [HostFile.identity(of: path)].compactMap { $0 })
            }
            if !readOnly { try Qcow2Check.repairIfDirty(path: path) }
            detachable = below.first.map { DetachableBacking($0.device) }
            device = try Qcow2Device.open(
                path: path, readOnly: readOnly, backing: detachable, pool: pool)
        }
        for lock in [lock, dataLock].compactMap({ $0 }) where !lock.isInPlace {
            throw BlockError(
                .busy, "open", on: lock.path, detail: "it was replaced while it was being opened")
        }
        let node = ImageNode(
            path: path, format: format, isDirect: isDirect, device: device, lock: lock,
            dataLock: dataLock, backing: detachable, found: found)
        return [node] + below
    }

    /// Locks and opens the qcow2 image `path` for writing, over a device that is open already and
    /// that its header names as its backing. Blocks.
    static func openOverlay(
        path: String, over base: ImageNode, pool: IOPool
    ) throws(BlockError) -> ImageNode {
        let lock = try ImageLock(path: path, use: .writing)
        let header = try Qcow2Device.readHeader(path: path)
        guard !header.hasDataFile else {
            throw BlockError(
                .unsupported, "open the overlay", on: path,
                detail: "it keeps its data in an external file")
        }
        guard let backing = header.backing, try isSame(try resolve(backing.name, from: path), base),
            try format(of: backing, in: path) == base.format
        else {
            throw BlockError(
                .invalid, "open the overlay", on: path,
                detail: "its header has to name \(base.path) (\(base.format.rawValue)) as its "
                    + "backing file")
        }
        let found = try ImageFingerprint(of: lock, format: .qcow2)
        try Qcow2Check.repairIfDirty(path: path)
        let detachable = DetachableBacking(base.device)
        let device = try Qcow2Device.open(
            path: path, readOnly: false, backing: detachable, pool: pool)
        return ImageNode(
            path: path, format: .qcow2, isDirect: false, device: device, lock: lock, dataLock: nil,
            backing: detachable, found: found)
    }

    /// Locks and opens what the header of the qcow2 image `path` names as its backing, with all that
    /// is behind that, for reading: from the top down, nothing if it names none. Blocks.
    static func backing(of path: String, pool: IOPool) throws(BlockError) -> [ImageNode] {
        guard let backing = try Qcow2Device.readHeader(path: path).backing else { return [] }
        return try nodes(
            backing: backing, of: path, within: try ImageFolder(of: path, .anywhere), pool: pool,
            above: [HostFile.identity(of: path)].compactMap { $0 })
    }

    static func isSame(_ path: String, _ node: ImageNode) throws(BlockError) -> Bool {
        if path == node.path { return true }
        guard !NBDDevice.isURI(path), let identity = HostFile.identity(of: path) else {
            return false
        }
        return identity == HostFile.identity(of: node.path)
    }

    /// The protocol has no locks: who else uses the export is the server's to know.
    private static func exportNode(
        uri: String, format: ImageFormat, readOnly: Bool
    ) throws(BlockError) -> ImageNode {
        guard format == .raw else {
            throw BlockError(
                .unsupported, "open", on: uri,
                detail: "what an NBD server exports can be used as raw only: "
                    + "let the server open the \(format.rawValue) image")
        }
        let device = try NBDDevice.open(uri: uri, readOnly: readOnly)
        return ImageNode(
            path: uri, format: format, isDirect: false, device: device, lock: nil,
            dataLock: nil, backing: nil,
            found: ImageFingerprint(sizeBytes: device.lengthBytes))
    }

    private static func nodes(
        backing: Qcow2Backing, of path: String, within folder: ImageFolder, pool: IOPool,
        above: [HostFile.Identity]
    ) throws(BlockError) -> [ImageNode] {
        guard above.count < chainDepthMax else {
            throw BlockError(
                .unsupported, "open the backing file", on: path,
                detail: "the backing chain is longer than \(chainDepthMax)")
        }
        let named = try resolve(backing.name, from: path)
        try folder.check(named, of: path)
        return try nodes(
            path: named, format: format(of: backing, in: path), readOnly: true, isDirect: false,
            within: folder, pool: pool, above: above)
    }

    /// The files of the chain of `path`, top first, none of them locked: for looking at it.
    package static func chain(
        path: String, format: ImageFormat
    ) throws(BlockError) -> [(path: String, format: ImageFormat)] {
        var chain = [(path: path, format: format)]
        while let last = chain.last, last.format == .qcow2, chain.count <= chainDepthMax,
            let backing = try Qcow2Device.readHeader(path: last.path).backing
        {
            chain.append(
                (
                    try resolve(backing.name, from: last.path),
                    try Self.format(of: backing, in: last.path)
                ))
        }
        return chain
    }

    /// The format that the first bytes of `path` show: a guess, good for looking at the file. What
    /// is to be opened for a guest takes `ImageProbe`.
    package static func probe(path: String) throws(BlockError) -> ImageFormat {
        let file = try HostFile(path: path, access: .readOnly)
        var magic: [UInt8] = [0, 0, 0, 0]
        try magic.withMutableBytes { (bytes) throws(BlockError) in
            try file.read(at: 0, into: bytes)
        }
        return magic == [0x51, 0x46, 0x49, 0xFB] ? .qcow2 : .raw
    }

    /// `name` as the header of `path` means it: the URI of an NBD export, or a file, relative to
    /// the folder of `path`.
    static func resolve(_ name: String, from path: String) throws(BlockError) -> String {
        if NBDDevice.isURI(name) || name.hasPrefix("/") { return name }
        if let colon = name.firstIndex(of: ":"), !name[..<colon].contains("/") {
            guard name.hasPrefix("file:") else {
                throw BlockError(
                    .unsupported, "open the backing file", on: path,
                    detail: "\(name) is neither a file nor an NBD export; "
                        + "a file whose name looks like that is written ./\(name)")
            }
            return try resolve(String(name[name.index(after: colon)...]), from: path)
        }
        guard let slash = path.lastIndex(of: "/") else { return name }
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
