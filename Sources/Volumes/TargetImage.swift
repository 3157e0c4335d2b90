package import BlockCore
import DriverNBD
import DriverQcow2
import Synchronization

// What a mirror writes: an image file or an export, made for it or found, or a volume.
//
// A qcow2 image that is to receive a part of the source's content is written in whole clusters: one
// that was copied in part would hide what is below. And zeroes must be stored in it as zeroes, not
// left out: below, there may be something else. So while it is a target it is open over a backing
// that says it has content everywhere, and that no cluster ever takes any of (`OpaqueBacking`). What
// its header names may be made by somebody else meanwhile. At a pivot the backing comes in place of
// that: what the header names then is opened; an image of the source, which cannot be opened while it
// is written, is open already.

/// The backing that an image made for a mirror is to name.
package enum TargetBacking: Sendable, Equatable {
    case none
    /// The image of the source's chain at that position, 0 being its top.
    case ofSource(Int)
}

/// What image a mirror shall write.
package struct TargetSpecification: Sendable {
    /// A file, or the URI of an NBD export.
    package var path: String
    /// Absent: guessed for an image that exists, raw for an export, that of the source for a new one.
    package var format: ImageFormat?
    package var mode: NewImageMode
    package var backing: TargetBacking
    /// Whether it receives only a part of the source's content.
    package var isPartial: Bool
    /// An overlay that is going to be the source's top when the mirror begins.
    package var snapshot: PreparedSnapshot?

    package init(
        path: String, format: ImageFormat? = nil, mode: NewImageMode = .absolutePaths,
        backing: TargetBacking = .none, isPartial: Bool = false,
        snapshot: PreparedSnapshot? = nil
    ) {
        self.path = path
        self.format = format
        self.mode = mode
        self.backing = backing
        self.isPartial = isPartial
        self.snapshot = snapshot
    }
}

/// What a mirror writes, open.
package struct TargetImage: Sendable {
    /// What is below a target that is open without it.
    enum Below: Sendable {
        case nothing
        /// What its header names, which is opened at a pivot.
        case named
        /// That image of the source.
        case source(any BlockDevice)
    }

    package let device: any BlockDevice
    /// Whether it was given up, which happens once.
    private let ending = Ending()
    package let name: String
    /// What copies must cover whole.
    package private(set) var unitBytes: UInt64
    /// Whether it reads as zeroes where nothing was written to it.
    package let isZero: Bool
    /// Its images; nil if it is a volume.
    let chain: ImageChain?
    let below: Below
    let isOwned: Bool
    /// Whose claim on images of the source's own chain it belongs to, if it is one of these.
    private(set) var committer: (volume: Volume, claim: String)?
    /// Up to where there is something below it.
    private let backedBytes: UInt64
    /// Whose images these are, if not the mirror's.
    private(set) var lender: ImageLender?

    /// The volume `volume` as a target for a mirror of `source`.
    package init(_ volume: Volume, for source: Volume) throws(BlockError) {
        guard volume.lengthBytes == source.lengthBytes else {
            throw Self.wrongLength(volume.name, source.lengthBytes, volume.lengthBytes)
        }
        guard !volume.isTarget.exchange(true, ordering: .acquiringAndReleasing) else {
            throw BlockError(
                .busy, "mirror", on: volume.name,
                detail: "it is the target of another mirror: wait for that or cancel it")
        }
        backedBytes = 0
        device = volume
        name = volume.name
        unitBytes = 1
        isZero = false
        chain = nil
        below = .nothing
        isOwned = false
    }

    /// Images, or a device over others, that are open for writing and go back to `lender`. Only
    /// images by themselves can become those of a volume.
    package init(
        _ device: any BlockDevice, name: String, images chain: ImageChain?, for source: Volume,
        isPartial: Bool, lender: ImageLender
    ) async throws(BlockError) {
        let length = source.lengthBytes
        let allowed = chain?.top is Qcow2Device ? length.alignedUp(to: 512) : length
        guard device.lengthBytes == allowed else {
            throw Self.wrongLength(name, length, device.lengthBytes)
        }
        guard !device.isReadOnly else { throw BlockError(.readOnly, "write", on: name) }
        self.device = device
        self.name = name
        self.chain = chain
        self.lender = lender
        isZero = false
        isOwned = false
        below = .nothing
        backedBytes = length
        unitBytes = device.chainNodeCount == 1 ? device.allocationUnitBytes : 1
        if isPartial { await resumeWriting() }
    }

    /// The image `base` of the chain of `volume`, which is claimed as `claim` with all above it,
    /// to be written with what these hold. At a pivot the volume goes on on that.
    package static func base(
        _ base: String, of volume: Volume, for claim: String
    ) async throws(BlockError) -> TargetImage {
        try await volume.beginWriting(base)
        do throws(BlockError) {
            try await volume.growImage(base, to: volume.lengthBytes)
        } catch {
            try? await volume.endWriting(base)
            throw error
        }
        guard let chain = volume.chain(from: base) else {
            throw Volume.noImage(base, of: volume.name)
        }
        var target = TargetImage(chain, of: volume)
        target.committer = (volume, claim)
        target.unitBytes = 1
        return target
    }

    /// Images that are open for writing. New ones read as zeroes; those that are `isOwned` were made
    /// by the agent.
    init(
        _ chain: ImageChain, of volume: Volume, isNew: Bool = false, isOwned: Bool = false,
        below: Below = .nothing
    ) {
        self.chain = chain
        self.below = below
        self.isOwned = isNew || isOwned
        backedBytes = volume.lengthBytes
        device = chain.top
        name = chain.nodes[0].path
        let standsAlone = chain.nodes.count == 1
        unitBytes = standsAlone && chain.top is Qcow2Device ? chain.top.allocationUnitBytes : 1
        isZero = isNew && standsAlone && chain.nodes[0].backing == nil
    }

    static func wrongLength(
        _ name: String, _ source: UInt64, _ target: UInt64
    ) -> BlockError {
        BlockError(
            .invalid, "mirror", on: name,
            detail: "Source and target image have different sizes: \(source) and \(target) bytes")
    }

    /// What writes compressed clusters to it, if it can have such.
    package var compressor: (any ClusterCompressing)? { chain?.top as? Qcow2Device }

    /// Whether it can become the image of a volume.
    package var canPivot: Bool { chain != nil }

    /// Gives it up, unless it has become the image of the volume.
    package func end(isPivoted: Bool) async throws(BlockError) {
        guard !ending.hasBegun.exchange(true, ordering: .acquiringAndReleasing) else { return }
        (device as? Volume)?.isTarget.store(false, ordering: .releasing)
        if let committer {
            defer { committer.volume.releaseImages(of: committer.claim) }
            if !isPivoted { try await committer.volume.endWriting(name) }
            return
        }
        guard !isPivoted else { return }
        guard let lender else {
            try await chain?.close()
            return
        }
        if let slot = chain?.openSlot { await slot.detach() }
        do throws(BlockError) { try await device.flush() } catch {
            await lender.giveBack()
            throw error
        }
        await lender.giveBack()
    }

    /// Has requests to a server that does not answer fail; nobody needs the target any more. What
    /// goes back to its lender is left alone.
    package func abandonRequests() {
        if lender == nil { (device as? NBDDevice)?.giveUp() }
    }

    /// Gives it up.
    package func close() async throws(BlockError) { try await end(isPivoted: false) }

    /// Opens what its header names as its backing, for a pivot: nothing if it names none, or is open
    /// over it already.
    package func openBacking() async throws(BlockError) -> TargetBackingImages? {
        guard let chain, case .named = below else { return nil }
        let path = chain.nodes[0].path
        let nodes = try await IOPool.guest.run { () throws(BlockError) in
            try ImageOpener.backing(of: path, pool: .guest)
        }
        return TargetBackingImages(nodes: nodes)
    }

    /// Makes it the images of `volume`, with which it is in step once the settling of `step` has
    /// returned, over the backing that `backing` gives then.
    package func pivot(
        of volume: Volume, alongside step: QuietStep,
        backing: @escaping @Sendable () -> TargetBackingImages?
    ) throws(BlockError) -> QuietStep {
        guard let chain else {
            throw BlockError(
                .unsupported, "complete the mirror", on: volume.name,
                detail: "its target is the volume \(name), which goes on as one of its own: "
                    + "end it with a cancel")
        }
        var pivot = step
        pivot.newImages = QuietStep.NewImages(use: "a pivot", ownsTop: isOwned)
        let settle = step.settle
        let committer = committer
        if let lender {
            let follow = step.follow
            pivot.follow = { table in
                lender.lose()
                return follow(table)
            }
        }
        pivot.settle = { (end) async throws(BlockError) in
            let base = committer == nil ? nil : volume.chain(from: chain.nodes[0].path)
            try volume.checkImagesMayGo(
                but: base?.nodes.map(\.path) ?? [], for: committer?.claim)
            _ = try await settle?(end)
            try await chain.top.flush()
            if let base { return base }
            return try await images(over: volume, backing())
        }
        return pivot
    }

    /// Its images with what is below them in place of the opaque backing, with nothing written to
    /// either.
    private func images(
        over volume: Volume, _ backing: TargetBackingImages?
    ) async throws(BlockError) -> ImageChain? {
        guard let chain, let slot = chain.openSlot else { return chain }
        // The opaque backing is replaced, never taken away first: over nothing, zeroes that a guest
        // writes would leave a hole.
        switch below {
        case .nothing:
            await slot.detach()
            return chain
        case .named:
            guard let nodes = backing?.nodes, let first = nodes.first else {
                throw BlockError(
                    .invalid, "complete the mirror", on: volume.name,
                    detail: "what is to be below \(name) is not open")
            }
            await slot.attach(first.device)
            return ImageChain(nodes: [chain.nodes[0]] + nodes)
        case .source(let device):
            let source = volume.chain
            guard let position = source.nodes.firstIndex(where: { $0.device === device }) else {
                throw BlockError(
                    .invalid, "complete the mirror", on: volume.name,
                    detail: "the image that is to be below \(name) is not in its chain any more")
            }
            await slot.attach(device)
            if position == 0 { return try await source.settled(under: chain.nodes[0]) }
            return ImageChain(nodes: [chain.nodes[0]] + source.nodes[position...])
        }
    }

    /// After a pivot that did not take place: the target is written again.
    package func resumeWriting() async {
        guard committer == nil, let slot = chain?.openSlot else { return }
        await slot.attach(OpaqueBacking(lengthBytes: backedBytes))
    }
}

/// What is going to be below a target, open for reading.
package struct TargetBackingImages: Sendable {
    let nodes: [ImageNode]

    /// Gives them up.
    package func close() async {
        for node in nodes {
            try? await node.device.close()
            node.unlock()
        }
    }
}

/// Whether something has been ended, which happens once.
private final class Ending: Sendable {
    let hasBegun = Atomic(false)
}
