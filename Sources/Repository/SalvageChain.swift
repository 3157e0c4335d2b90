import BlockCore
import DriverQcow2

// What survives of a point whose chain has a gap or is damaged.
//
//   top           the points from the asked one down to the gap: their tables say which cells they
//                 hold, and what an image still has is proven by its digest
//   below         what the volume had in all other places is not known for certain. It is taken
//                 from the best that is left, and all of it is listed as lost:
//      unproven   the image in the gap, with those behind it, where only its table or manifest
//                 is gone: probably right, but nothing proves it
//      older      else the newest whole point below the gap, of the same volume
//      nothing    else zeroes
//
// A point in the top whose image is gone leaves zeroes in the cells that it alone held. Where each
// point stands follows from the parents in the manifests; only `older` goes by the order of ids.

/// What is left of the chain of a point, and how to read it. Its calls may block.
struct SalvageChain {
    private struct Level {
        let manifest: Manifest
        /// Why its data are not the asked point's for certain.
        let doubt: String?
        let hasImage: Bool
    }

    private let store: DirectoryStore
    private let folder: String
    /// The oldest first; the last is the asked point, unless its own table is unusable.
    private var levels: [Level] = []
    /// What bytes are that no level records; nil for zeroes.
    private var below: PointPart?
    private(set) var images = SalvageImages()

    let manifest: Manifest

    /// Finds what is left of `id`, whose own manifest must be sound.
    init(of id: PointID, in store: DirectoryStore) throws(BlockError) {
        guard let folder = try store.folder(of: id) else { throw store.missing(id) }
        self.store = store
        self.folder = folder
        manifest = try store.manifest(id, in: folder)
        var top: [Manifest] = []
        var gap: (id: PointID, reason: String)?
        var next: PointID? = id
        while let id = next {
            do throws(BlockError) {
                let found = try store.manifest(id, in: folder)
                if let child = top.last, let fault = store.bindingFault(of: child, to: found) {
                    throw fault
                }
                let table = try store.table(of: found, in: folder)
                try table.drain()
                top.append(found)
                next = found.parent?.point
            } catch {
                gap = (id, "\(id) is missing or damaged (\(error))")
                next = nil
            }
        }
        if let gap { addBelow(gap.id, gap.reason) }
        for manifest in top.reversed() {
            let hasImage = images.add(manifest.point, in: folder)
            levels.append(Level(manifest: manifest, doubt: nil, hasImage: hasImage))
        }
    }

    private mutating func addBelow(_ gap: PointID, _ reason: String) {
        let whole = ByteRange(offset: 0, lengthBytes: 0)
        if images.addChain(gap, in: folder) {
            below = PointPart(
                range: whole, isRead: true, doubt: "as the images have it, unproven: \(reason)")
        } else if let older = newestWhole(below: gap), let point = older.last?.point {
            let doubt = "the older content of \(point): \(reason)"
            below = PointPart(range: whole, isRead: false, doubt: doubt)
            for manifest in older {
                let hasImage = images.add(manifest.point, in: folder)
                levels.append(Level(manifest: manifest, doubt: doubt, hasImage: hasImage))
            }
        } else {
            below = PointPart(range: whole, isRead: false, doubt: "zeroes: \(reason)")
        }
    }

    /// The chain of the newest point with an id below `gap` whose chain is whole and fits the
    /// tables above.
    private func newestWhole(below gap: PointID) -> [Manifest]? {
        let ids = ((try? store.names(in: folder)) ?? []).compactMap { name -> PointID? in
            if case .manifest(let id) = PointFileName(name) { id } else { nil }
        }
        for id in ids.filter({ $0 < gap }).sorted().reversed() {
            guard let chain = try? store.chain(of: id).manifests, let last = chain.last,
                last.digest == manifest.digest, last.volume.uuid == manifest.volume.uuid,
                chain.allSatisfy({ (try? store.table(of: $0, in: folder).drain()) != nil })
            else { continue }
            return chain
        }
        return nil
    }

    /// The content as far as it is known, from the beginning.
    func parts() throws(BlockError) -> () throws(BlockError) -> PointPart? {
        let volumeBytes = manifest.volume.lengthBytes
        guard !levels.isEmpty else {
            var isDone = false
            let whole = part(
                ContentPiece(range: ByteRange(offset: 0, lengthBytes: volumeBytes)), level: nil)
            return { () throws(BlockError) in
                defer { isDone = true }
                return isDone ? nil : whole
            }
        }
        let content = try store.content(of: levels.map(\.manifest), in: folder)
        return { [self] () throws(BlockError) in
            try content.next().map { part($0, level: content.level) }
        }
    }

    private func part(_ piece: ContentPiece, level index: Int?) -> PointPart {
        guard let index else {
            var part = below ?? PointPart(range: piece.range, isRead: false)
            part.range = piece.range
            return part
        }
        let level = levels[index]
        guard let digest = piece.digest else {
            return PointPart(range: piece.range, isRead: false, doubt: level.doubt)
        }
        guard level.hasImage else {
            let name = level.manifest.image.file
            return PointPart(
                range: piece.range, isRead: false,
                doubt: "zeroes: \(name) is missing or damaged")
        }
        return PointPart(range: piece.range, digest: digest, isRead: true, doubt: level.doubt)
    }
}

/// The images of a chain that can still be opened, each over the next one that can.
struct SalvageImages {
    private var devices: [any BlockDevice] = []
    private var locks: [ImageLock] = []

    /// Puts the image of `id` over those added before; false if it cannot be opened.
    mutating func add(_ id: PointID, in folder: String) -> Bool {
        let path = "\(folder)/\(DirectoryWriterFiles.imageName(id))"
        do throws(BlockError) {
            let lock = try ImageLock(path: path, use: .reading)
            let device = try Qcow2Device.open(
                path: path, readOnly: true, backing: devices.last, pool: .background)
            locks.append(lock)
            devices.append(device)
            return true
        } catch {
            return false
        }
    }

    /// Adds the image of `id` and those that the headers name behind it, as far as they are there.
    /// False if the image of `id` itself cannot be opened.
    mutating func addChain(_ id: PointID, in folder: String) -> Bool {
        var ids: [PointID] = []
        var next: PointID? = id
        while let id = next, !ids.contains(id) {
            ids.append(id)
            let header = try? Qcow2Header(path: "\(folder)/\(DirectoryWriterFiles.imageName(id))")
            next = header?.backing.flatMap { backing in
                if case .image(let id) = PointFileName(backing.name) { id } else { nil }
            }
        }
        var isOpen = false
        for id in ids.reversed() { isOpen = add(id, in: folder) }
        return isOpen
    }

    /// One device that shows them all, `lengthBytes` long unless the top image is shorter; nil if
    /// there is none.
    func device(lengthBytes: UInt64) -> (any BlockDevice)? {
        guard let top = devices.last else { return nil }
        return ExactLengthDevice(
            top, below: devices.dropLast(), locks: locks,
            lengthBytes: min(lengthBytes, top.lengthBytes))
    }
}
