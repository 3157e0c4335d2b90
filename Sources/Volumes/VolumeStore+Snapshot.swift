package import BlockCore
import Catalog
import DriverQcow2

// An external snapshot: an empty overlay takes the place of the top, which becomes its backing and
// is written no more. The bitmaps belong to the volume and go on.
//
//   prepare    make the overlay (unless it exists), lock and open it over the top, which is open
//              already
//   instant    settle the old top · commit · the overlay is the top (`QuietTransaction`)
//
// To settle the old top is to flush it and to give back what it has not used: after that its file
// does not change any more, and looks in the catalog as it is going to look at the next start.

/// An overlay that is open, and not yet the top of its volume.
package struct PreparedSnapshot: Sendable {
    package let action: QuietAction
    package let volume: Volume
    /// What the overlay is going to be.
    let overlay: ImageNode
}

extension VolumeStore {
    /// Puts an overlay at `path` over the images of a volume: a qcow2 image.
    package func snapshot(
        _ name: String, to path: String, mode: NewImageMode = .absolutePaths
    ) async throws(BlockError) {
        let prepared = try await prepareSnapshot(name, to: path, mode: mode)
        try await QuietTransaction.perform([prepared.action])
    }

    /// Makes or opens the overlay, and nothing else yet.
    package func prepareSnapshot(
        _ name: String, to path: String, mode: NewImageMode = .absolutePaths
    ) async throws(BlockError) -> PreparedSnapshot {
        let volume = try volume(name)
        guard path.hasPrefix("/"), !volume.isReadOnly else {
            throw BlockError(
                .invalid, "make a snapshot", on: name,
                detail: volume.isReadOnly
                    ? "the volume is read-only" : "\(path) has to be an absolute path")
        }
        let base = volume.using { $0.nodes[0] }
        var made: NewImage?
        if mode == .existing {
            try await checkIsAlone(name, paths: [path])
        } else {
            made = try await makeOverlay(of: volume, base, at: path, mode)
        }
        do throws(BlockError) {
            let overlay = try await IOPool.guest.run { () throws(BlockError) in
                try ImageOpener.openOverlay(path: path, over: base, pool: .guest)
            }
            return PreparedSnapshot(
                action: putting(overlay, made, over: base, of: volume), volume: volume,
                overlay: overlay)
        } catch {
            try? await made?.withdraw()
            throw error
        }
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

    private func putting(
        _ overlay: ImageNode, _ made: NewImage?, over base: ImageNode, of volume: Volume
    ) -> QuietAction {
        let step = QuietStep(
            "make a snapshot", of: volume,
            newImages: QuietStep.NewImages(use: "a snapshot", ownsTop: made != nil),
            settle: { (_) async throws(BlockError) in
                guard volume.top === base.device else {
                    throw BlockError(
                        .invalid, "make a snapshot", on: volume.name,
                        detail: "its images were changed meanwhile; try again")
                }
                try volume.checkTopIsFree()
                return try await volume.chain.settled(under: overlay)
            })
        var action = QuietAction([step])
        action.happened = { outcome in
            for images in outcome.retired(of: volume) { await images.close() }
            // The next start tries again what fails here.
            try? await made?.settle()
        }
        action.withdraw = { [self] in
            // Nothing was written to it.
            try? await overlay.device.close()
            overlay.unlock()
            // A commit that failed may show after a crash, until another one has followed: only
            // then the catalog is sure not to name the overlay.
            guard let made, (try? await beat()) != nil else { return }
            try? await made.withdraw()
        }
        return action
    }
}

extension Volume {
    /// The images of its chain, from the top down, as they are going to be after a snapshot.
    package func imagePaths(after snapshot: PreparedSnapshot?) -> [String] {
        (snapshot.map { [$0.overlay.path] } ?? []) + imagePaths
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
