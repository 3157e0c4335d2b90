package import BlockCore
import Catalog
import DriverQcow2

// An external snapshot: an empty overlay takes the place of the top, which becomes its backing and
// is written no more. The bitmaps belong to the volume and go on.
//
//   make the overlay (unless it exists), lock and open it over the top, which is open already
//   hold the volume · settle the old top · commit · the overlay is the top · release
//
// To settle the old top is to flush it and to give back what it has not used: after that its file
// does not change any more, and looks in the catalog as it is going to look at the next start.

extension VolumeStore {
    /// Puts an overlay at `path` over the images of a volume: a qcow2 image.
    package func snapshot(
        _ name: String, to path: String, mode: NewImageMode = .absolutePaths
    ) async throws(BlockError) {
        let volume = try volume(name)
        guard path.hasPrefix("/"), !volume.isReadOnly else {
            throw BlockError(
                .invalid, "make a snapshot", on: name,
                detail: volume.isReadOnly
                    ? "the volume is read-only" : "\(path) has to be an absolute path")
        }
        let base = volume.using { $0.nodes[0] }
        guard mode == .existing else {
            let made = try await makeOverlay(of: volume, base, at: path, mode)
            do throws(BlockError) {
                try await put(volume, over: base, on: path, ownsTop: true)
            } catch {
                // A commit that failed may show after a crash, until another one has followed: only
                // then the catalog is sure not to name the overlay.
                guard (try? await beat()) != nil else { throw error }
                try? await made.withdraw()
                throw error
            }
            // The next start tries again what fails here.
            try? await made.settle()
            return
        }
        try await checkIsAlone(name, paths: [path])
        try await put(volume, over: base, on: path, ownsTop: false)
    }

    private func makeOverlay(
        of volume: Volume, _ base: ImageNode, at path: String, _ mode: NewImageMode
    ) async throws(BlockError) -> NewImage {
        let backing = Qcow2Backing(
            name: mode.name(of: base.path, from: path), format: base.format.rawValue)
        return try await NewImage(at: path, queue: queue) { [volume] (path) throws(BlockError) in
            try Qcow2Device.create(
                path: path, lengthBytes: volume.lengthBytes, backing: backing, pool: .background)
        }
    }

    private func put(
        _ volume: Volume, over base: ImageNode, on path: String, ownsTop: Bool
    ) async throws(BlockError) {
        let overlay = try await IOPool.guest.run { () throws(BlockError) in
            try ImageOpener.openOverlay(path: path, over: base, pool: .guest)
        }
        let change = InstantChange(
            volume: volume, ownsTop: ownsTop, chainUse: "a snapshot",
            settle: { (_) async throws(BlockError) in
                guard volume.top === base.device else {
                    throw BlockError(
                        .busy, "make a snapshot", on: volume.name,
                        detail: "its images were changed meanwhile; try again")
                }
                try volume.checkTopIsFree()
                return try await volume.chain.settled(under: overlay)
            })
        let retired: [RetiredImages]
        do throws(BlockError) { retired = try await InstantChange.make([change]) } catch {
            overlay.unlock()
            throw error
        }
        for images in retired { await images.close() }
    }
}

extension ImageChain {
    /// With no write in flight: the chain with `overlay`, which is open over the top of this one,
    /// on it. The old top is durable and does not change any more.
    func settled(under overlay: ImageNode) async throws(BlockError) -> ImageChain {
        let base = nodes[0]
        if let image = base.device as? Qcow2Device {
            try await image.settle()
        } else {
            try await base.device.flush()
        }
        let look = try await IOPool.guest.run { [self] () throws(BlockError) in
            try flushTimes()
            return try lookAtTop()
        }
        var settled = base
        settled.found = look
        return ImageChain(nodes: [overlay, settled] + nodes.dropFirst())
    }
}
