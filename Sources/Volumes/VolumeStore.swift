package import BlockCore
package import Catalog
import DriverNBD
import DriverQcow2
import Foundation

/// All volumes of the agent: those that are open, and those that could not be opened with why.
package actor VolumeStore {
    let queue: CatalogQueue
    private let stateDirectory: String
    private var open: [String: Volume] = [:]
    private var failures: [String: BlockError] = [:]
    /// Names of volumes that are being made or removed at the moment.
    private var reserved: Set<String> = []
    /// The chains of those that are being made and may not be in the catalog yet.
    var arriving: [String: [String]] = [:]

    package init(queue: CatalogQueue, stateDirectory: String) {
        self.queue = queue
        self.stateDirectory = stateDirectory
    }

    /// Opens every volume of the catalog and brings its bitmaps in order after an unclean stop.
    /// One that cannot be opened stops no other. What a crash left of images on their way in or out
    /// is removed before.
    package func openAll() async throws(BlockError) {
        try await NewImage.sweep(queue)
        var rest = try await records()[...]
        while !rest.isEmpty {
            await openTogether(rest.prefix(Self.openedTogether))
            rest = rest.dropFirst(Self.openedTogether)
        }
    }

    /// So many volumes are opened at the same time, and share a commit.
    private static let openedTogether = 64

    private func openTogether(
        _ records: ArraySlice<(volume: VolumeRecord, nodes: [NodeRecord])>
    ) async {
        let chains = await withTaskGroup(
            of: (String, Result<VolumeOpening.OpenedChain, BlockError>).self
        ) { group in
            for (record, nodes) in records {
                group.addTask {
                    do throws(BlockError) {
                        let opened = try await VolumeOpening.openChain(of: record, nodes)
                        return (record.name, .success(opened))
                    } catch {
                        return (record.name, .failure(error))
                    }
                }
            }
            return await group.reduce(into: []) { $0.append($1) }
        }
        var opened: [VolumeOpening.OpenedChain] = []
        for (name, result) in chains {
            switch result {
            case .success(let chain): opened.append(chain)
            case .failure(let error): failures[name] = error
            }
        }
        let results: [Result<Volume, BlockError>]
        do throws(BlockError) {
            results = try await VolumeOpening.start(opened, queue: queue)
        } catch {
            results = opened.map { _ in .failure(error) }
        }
        for (one, result) in zip(opened, results) {
            switch result {
            case .success(let volume):
                open[volume.name] = volume
                failures[volume.name] = nil
            case .failure(let error):
                one.chain.unlock()
                failures[one.record.name] = error
            }
        }
    }

    /// The open volume by that name.
    package func volume(_ name: String) throws(BlockError) -> Volume {
        if let volume = open[name] { return volume }
        if let failure = failures[name] { throw failure }
        throw BlockError(
            .notFound, "find the volume", on: name, detail: "there is no volume by that name")
    }

    /// All open volumes by name.
    package func volumes() -> [Volume] { open.values.sorted { $0.name < $1.name } }

    /// Why each volume that is not open is not.
    package func unavailable() -> [(name: String, reason: BlockError)] {
        failures.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
    }

    /// Makes a new image and a volume of it.
    package func create(_ specification: VolumeSpecification) async throws(BlockError) -> Volume {
        try reserve(specification.name)
        defer { reserved.remove(specification.name) }
        let path =
            if let path = specification.path { path } else {
                try ownImagePath(specification.name, format: specification.format)
            }
        let image = try await NewImage(at: path, queue: queue) { (path) throws(BlockError) in
            try specification.makeImage(at: path)
        }
        let volume: Volume
        do throws(BlockError) {
            volume = try await register(
                specification.name, path: path, format: specification.format,
                lengthBytes: specification.lengthBytes, isOwned: true,
                isDirect: specification.isDirect, durability: specification.durability)
        } catch {
            try? await image.withdraw()
            throw error
        }
        // The next start tries again what fails here.
        try? await image.settle()
        return volume
    }

    /// Where the image of a new volume, whose name is held, goes unless the user says otherwise.
    package func newImagePath(_ name: String, format: ImageFormat) throws(BlockError) -> String {
        try ownImagePath(name, format: format)
    }

    private func ownImagePath(_ name: String, format: ImageFormat) throws(BlockError) -> String {
        let folder = "\(stateDirectory)/volumes"
        try HostDirectory.create(folder)
        return "\(folder)/\(name).\(format.rawValue)"
    }

    /// Makes a qcow2 image at `path`, of which the file `backing` is the backing image, and a volume
    /// of it. The name is held.
    package func createOverlay(
        _ name: String, path: String, of backing: (path: String, format: ImageFormat),
        lengthBytes: UInt64, origin: VolumeOrigin
    ) async throws(BlockError) -> Volume {
        try await IOPool.background.run { () throws(BlockError) in
            try Qcow2Device.create(
                path: path, lengthBytes: lengthBytes,
                backing: Qcow2Backing(name: backing.path, format: backing.format.rawValue),
                pool: .background)
            try HostDirectory.flush(HostDirectory.parent(of: path))
        }
        do throws(BlockError) {
            return try await register(
                name, path: path, format: .qcow2, lengthBytes: lengthBytes, isOwned: true,
                origin: origin)
        } catch {
            try? HostDirectory.removeFile(path)
            throw error
        }
    }

    /// The rows of all volumes, open or not, each with its chain from the top down.
    package func records() async throws(BlockError) -> [(volume: VolumeRecord, nodes: [NodeRecord])]
    {
        try await queue.run { (catalog) throws(BlockError) in
            try catalog.reading { (snapshot) throws(CatalogError) in
                var records: [(volume: VolumeRecord, nodes: [NodeRecord])] = []
                for volume in try snapshot.volumes() {
                    records.append((volume, try snapshot.nodes(ofVolume: volume.id)))
                }
                return records
            }
        }
    }

    /// Makes a volume of an image that exists, with what it names as far as `reach` allows. Its
    /// format is guessed if none is given, and recorded: it is never guessed again. Returns a
    /// warning about the guess, if there is one.
    package func add(
        _ name: String, path: String, format: ImageFormat?, isDirect: Bool = false,
        reach: ImageReach = .ownFolder, durability: Durability = .power
    ) async throws(BlockError) -> (volume: Volume, warning: String?) {
        try reserve(name)
        defer { reserved.remove(name) }
        try await checkIsAlone(name, paths: [path])
        var warning: String?
        let known: ImageFormat
        if let format {
            known = format
        } else if NBDDevice.isURI(path) {
            known = .raw
        } else {
            let probe = try await IOPool.background.run { () throws(BlockError) in
                try ImageProbe(path: path)
            }
            (known, warning) = (probe.format, probe.warning)
        }
        let volume = try await register(
            name, path: path, format: known, lengthBytes: nil, isOwned: false, isDirect: isDirect,
            reach: reach, durability: durability)
        return (volume, warning)
    }

    /// Keeps the name of a volume to come from being taken, until `releaseName`.
    package func holdName(_ name: String) throws(BlockError) { try reserve(name) }

    /// Undoes `holdName`, whether or not the volume came to be.
    package func releaseName(_ name: String) { reserved.remove(name) }

    /// Makes a volume of an image; of an exact length where the image's own may be rounded up.
    /// A restored volume continues its `origin`.
    package func register(
        _ name: String, path: String, format: ImageFormat, lengthBytes: UInt64?, isOwned: Bool,
        isDirect: Bool = false, reach: ImageReach = .anywhere, origin: VolumeOrigin? = nil,
        durability: Durability = .power
    ) async throws(BlockError) -> Volume {
        let chain = try await IOPool.guest.run { () throws(BlockError) in
            try ImageOpener.open(
                path: path, format: format, readOnly: false, isDirect: isDirect, reach: reach,
                pool: .guest)
        }
        defer { arriving[name] = nil }
        do throws(BlockError) {
            // Two that come at the same time see each other here, and all others in the catalog. An
            // NBD server has no locks that would tell.
            let paths = chain.nodes.map(\.path)
            for (other, others) in arriving { try Self.checkClash(name, paths, other, others) }
            arriving[name] = paths
            try await checkIsAlone(name, paths: chain.nodes.map(\.path))
            let length = lengthBytes ?? chain.top.lengthBytes
            let bitmaps = try await IOPool.background.run { () throws(BlockError) in
                try origin == nil ? ImportedBitmap.all(of: chain, lengthBytes: length) : []
            }
            let volume = try await VolumeOpening.create(
                name: name, chain: chain, lengthBytes: length, isOwned: isOwned, origin: origin,
                bitmaps: bitmaps, durability: durability, queue: queue)
            open[name] = volume
            failures[name] = nil
            return volume
        } catch {
            chain.unlock()
            throw error
        }
    }

    /// Forgets the volume and its bitmaps; with `deletingFiles`, the image that was made for it
    /// too. `leave` takes its exports away once nothing else is in the way; if it throws, all is as
    /// before. One that cannot be closed is unavailable from then on, and can be removed as such.
    /// With `storingBitmaps` its bitmaps go on in the image, where QEMU finds them.
    package func remove(
        _ name: String, deletingFiles: Bool, storingBitmaps: Bool = false,
        leave: @Sendable () async throws(BlockError) -> Void = {}
    ) async throws(BlockError) {
        // Who came second would wait for ever for the volume that the first one closes.
        guard reserved.insert(name).inserted else {
            throw BlockError(
                .busy, "remove the volume", on: name, detail: "it is being made or removed")
        }
        defer { reserved.remove(name) }
        guard let (record, nodes) = try await records().first(where: { $0.volume.name == name })
        else {
            throw BlockError(
                .notFound, "remove the volume", on: name,
                detail: "there is no volume by that name")
        }
        if storingBitmaps { try volume(name).checkCanStoreBitmaps() }
        if let volume = open[name] {
            let failure = try await volume.closeUnlessBusy(storingBitmaps: storingBitmaps, leave)
            open[name] = nil
            if let failure {
                failures[name] = failure
                throw failure
            }
        }
        failures[name] = nil
        let image = deletingFiles ? nodes.first.flatMap(NewImage.leftover(of:)) : nil
        try await queue.change { (transaction) throws(CatalogError) in
            try transaction.deleteVolume(record.id)
            if let image { try transaction.insertLeftover(image) }
        }
        if let image { try await NewImage.remove(image, queue) }
    }

    /// How often `beat` is to be called.
    package static let heartbeatInterval = ImageTrust.heartbeatInterval

    /// Records that the volumes are open now: after a crash, what changed their images later than
    /// the last such record was not us.
    package func beat() async throws(BlockError) {
        let ids = volumes().filter { !$0.isReadOnly }.map(\.id)
        guard !ids.isEmpty else { return }
        try await queue.run { (catalog) throws(BlockError) in
            try catalog.writing { (transaction) throws(CatalogError) in
                try transaction.beat(ids, at: Date())
            }
        }
    }

    /// Takes regions that have not been written for a while out of the activity logs, so that after
    /// a crash they are not dirty without need.
    package func retireCold(
        after duration: Duration = Retirement.coldAfter
    ) async throws(BlockError) {
        try await Retirement.retireCold(
            of: volumes().filter { !$0.isReadOnly }, after: duration, on: queue)
    }

    /// Closes all volumes cleanly, at the same time, so that one that is stuck keeps no other from
    /// being closed. The errors of those that could not be are returned.
    package func closeAll() async -> [BlockError] {
        let errors = await withTaskGroup(of: BlockError?.self) { group in
            for volume in volumes() {
                group.addTask {
                    do throws(BlockError) { try await volume.close() } catch { return error }
                    return nil
                }
            }
            var errors: [BlockError] = []
            for await case let error? in group { errors.append(error) }
            return errors
        }
        open = [:]
        return errors
    }

    /// Two volumes on one image would not know of each other's writes: the image that one writes
    /// must be in no other's chain. The locks say so too, but not of volumes that are not open,
    /// and not by name. `paths` is a chain from its top down.
    func checkIsAlone(_ name: String, paths: [String]) async throws(BlockError) {
        let others = try await records()
        try await IOPool.background.run { () throws(BlockError) in
            for (other, nodes) in others {
                try Self.checkClash(name, paths, other.name, nodes.map(\.path))
            }
        }
    }

    static func checkClash(
        _ name: String, _ paths: [String], _ other: String, _ otherPaths: [String]
    ) throws(BlockError) {
        let chain = paths.compactMap(ImageIdentity.init(of:))
        let otherChain = otherPaths.compactMap(ImageIdentity.init(of:))
        let clash =
            chain.first.map(otherChain.contains) == true
            || otherChain.first.map(chain.contains) == true
        guard !clash else {
            throw BlockError(
                .busy, "add the volume \(name)", on: paths[0],
                detail: "volume \(other) uses this image or writes one of its chain")
        }
    }

    private func reserve(_ name: String) throws(BlockError) {
        try checkIsFree(name)
        reserved.insert(name)
    }

    private func checkIsFree(_ name: String) throws(BlockError) {
        try VolumeName.check(name)
        guard open[name] == nil, failures[name] == nil, !reserved.contains(name) else {
            throw BlockError(
                .invalid, "add the volume", on: name, detail: "there is a volume by that name")
        }
    }
}

/// What makes two images the same, whatever they are called.
enum ImageIdentity: Hashable {
    case file(HostFile.Identity)
    case export(uri: String)

    init?(of path: String) {
        if NBDDevice.isURI(path) {
            self = .export(uri: path)
        } else if let identity = HostFile.identity(of: path) {
            self = .file(identity)
        } else {
            return nil
        }
    }
}
