package import BlockCore
import DriverNBD
import DriverQcow2
import DriverRaw

// What a mirror writes: an image file or an export, made for it or found, or a volume.
//
// A qcow2 image that is to receive a part of the source's content, and that cannot be opened over
// what has the rest, is written in whole clusters: one that was copied in part would hide what is
// below. And zeroes must be stored in it as zeroes, not left out: below, there may be something
// else. So while it is a target it is open over a backing that says it has content everywhere, and
// that no cluster ever takes any of (`OpaqueBacking`). At a pivot that goes; if the source's own top is to be
// the backing, which cannot be opened while it is written, it comes in its place.

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

    package init(
        path: String, format: ImageFormat? = nil, mode: NewImageMode = .absolutePaths,
        backing: TargetBacking = .none, isPartial: Bool = false
    ) {
        self.path = path
        self.format = format
        self.mode = mode
        self.backing = backing
        self.isPartial = isPartial
    }
}

/// What a mirror writes, open.
package struct TargetImage: Sendable {
    package let device: any BlockDevice
    package let name: String
    /// What copies must cover whole.
    package let unitBytes: UInt64
    /// Whether it reads as zeroes where nothing was written to it.
    package let isZero: Bool
    /// Its images; nil if it is a volume.
    private let chain: ImageChain?
    /// Whether the source's top is its backing from a pivot on.
    private let isOverSource: Bool
    private let isOwned: Bool
    /// Up to where there is something below it.
    private let backedBytes: UInt64
    /// Whose images these are, if not the mirror's.
    private var lender: ImageLender?

    /// The volume `volume` as a target for a mirror of `source`.
    package init(_ volume: Volume, for source: Volume) throws(BlockError) {
        guard volume.lengthBytes == source.lengthBytes else {
            throw Self.wrongLength(volume.name, source.lengthBytes, volume.lengthBytes)
        }
        backedBytes = 0
        device = volume
        name = volume.name
        unitBytes = 1
        isZero = false
        chain = nil
        isOverSource = false
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
        isOverSource = false
        backedBytes = length
        unitBytes = device.chainNodeCount == 1 ? device.allocationUnitBytes : 1
        if isPartial { await resumeWriting() }
    }

    /// Images that are open for writing.
    init(_ chain: ImageChain, of volume: Volume, isNew: Bool = false, isOverSource: Bool = false) {
        self.chain = chain
        backedBytes = volume.lengthBytes
        self.isOverSource = isOverSource
        device = chain.top
        name = chain.nodes[0].path
        let standsAlone = chain.nodes.count == 1
        unitBytes = standsAlone && chain.top is Qcow2Device ? chain.top.allocationUnitBytes : 1
        isZero = isNew && standsAlone && chain.nodes[0].backing == nil
        isOwned = isNew
    }

    fileprivate static func wrongLength(
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

    /// Gives it up.
    package func close() async throws(BlockError) {
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

    /// Makes it the images of `volume`, with which it is in step once `settle`, called with the
    /// volume held, has returned. `change` is what happens at the same instant.
    package func pivot(
        of volume: Volume, alongside change: InstantChange
    ) throws(BlockError) -> InstantChange {
        guard let chain else {
            throw BlockError(
                .unsupported, "complete the mirror", on: volume.name,
                detail: "its target is the volume \(name), which goes on as one of its own: "
                    + "end it with a cancel")
        }
        var pivot = change.switchingImages(for: "a pivot", ownsTop: isOwned)
        let settle = change.settle
        let isOverSource = isOverSource
        if let lender {
            let didCommit = pivot.didCommit
            pivot.didCommit = { volume in
                didCommit(volume)
                lender.lose()
            }
        }
        pivot.settle = { (end) async throws(BlockError) in
            _ = try await settle(end)
            try await chain.top.flush()
            guard let slot = chain.openSlot else { return chain }
            await slot.detach()
            guard isOverSource else { return chain }
            slot.attach(volume.top)
            return try await volume.chain.settled(under: chain.nodes[0])
        }
        return pivot
    }

    /// After a pivot that did not take place: the target is written again.
    package func resumeWriting() async {
        guard let slot = chain?.openSlot else { return }
        await slot.detach()
        slot.attach(OpaqueBacking(lengthBytes: backedBytes))
    }
}

/// An image that takes whole clusters in compressed form.
package protocol ClusterCompressing: BlockDevice {
    func writeCompressed(at offset: UInt64, from source: BufferSlice) async throws(BlockError)
}

extension Qcow2Device: ClusterCompressing {}

/// Whose images a mirror writes.
package struct ImageLender: Sendable {
    /// The mirror needs them no more.
    var giveBack: @Sendable () async -> Void
    /// They are a volume's from now on. Called with that volume held: must not wait.
    var lose: @Sendable () -> Void

    package init(
        giveBack: @escaping @Sendable () async -> Void, lose: @escaping @Sendable () -> Void
    ) {
        self.giveBack = giveBack
        self.lose = lose
    }
}

extension ImageChain {
    /// The place below the only image of the chain, where something can be put for a time.
    fileprivate var openSlot: DetachableBacking? {
        guard nodes.count == 1, let slot = nodes[0].backing, !slot.isLent else { return nil }
        return slot
    }
}

/// A backing that claims to have content everywhere and has only zeroes.
private final class OpaqueBacking: BlockDevice {
    let nodeName = "what is below the target"
    let lengthBytes: UInt64
    var isReadOnly: Bool { true }
    var allocationUnitBytes: UInt64 { 512 }

    init(lengthBytes: UInt64) { self.lengthBytes = lengthBytes }

    private func refusal(_ operation: String) -> BlockError {
        BlockError(.invalid, operation, on: nodeName, detail: "a mirror copies whole clusters")
    }

    func tryRead(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        destination.initializeMemory(as: UInt8.self, repeating: 0)
        return .done
    }

    func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool { throw refusal("write") }

    /// A driver may look at what it is going to overwrite whole, to see whether there is anything to
    /// lose: there is not.
    func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        destination.bytes.initializeMemory(as: UInt8.self, repeating: 0)
    }

    func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        throw refusal("write")
    }

    func writeZeroes(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
        throw refusal("write zeroes")
    }

    func discard(_ range: ByteRange) async throws(BlockError) { throw refusal("discard") }

    func flush() async throws(BlockError) {}

    func extents(in range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
        [Extent(range: range, isZero: false, isHole: false)]
    }

    func close() async throws(BlockError) {}
}

extension VolumeStore {
    /// Opens what `specification` says for a mirror of `volume`, made if that is to be.
    package func openTarget(
        _ specification: TargetSpecification, for volume: Volume
    ) async throws(BlockError) -> TargetImage {
        let path = specification.path
        if NBDDevice.isURI(path) {
            let chain = try await open(path, .raw)
            return try checked(TargetImage(chain, of: volume), volume)
        }
        guard path.hasPrefix("/") else {
            throw BlockError(.invalid, "mirror", on: path, detail: "give an absolute path")
        }
        guard specification.mode == .existing else {
            return try await makeTarget(specification, for: volume)
        }
        try await checkIsAlone("to be the target of a mirror", paths: [path])
        let format: ImageFormat
        if let known = specification.format {
            format = known
        } else {
            format = try await IOPool.background.run { () throws(BlockError) in
                try ImageProbe(path: path).format
            }
        }
        let chain = try await open(
            path, format, partOf: specification.isPartial ? volume : nil)
        return try checked(TargetImage(chain, of: volume), volume)
    }

    private func makeTarget(
        _ specification: TargetSpecification, for volume: Volume
    ) async throws(BlockError) -> TargetImage {
        let nodes = volume.using { $0.nodes }
        let format = specification.format ?? nodes[0].format
        var base: ImageNode?
        if case .ofSource(let position) = specification.backing, position < nodes.count {
            base = nodes[position]
        }
        if base != nil, format == .raw {
            throw BlockError(
                .unsupported, "make the target", on: specification.path,
                detail: "a raw image has no backing: use the format qcow2")
        }
        let backing = base.map { base in
            Qcow2Backing(
                name: specification.mode.name(of: base.path, from: specification.path),
                format: base.format.rawValue)
        }
        let lengthBytes = volume.lengthBytes
        let made = try await NewImage(at: specification.path, queue: queue) {
            (path) throws(BlockError) in
            guard format == .qcow2 else {
                return try RawDevice.create(path: path, lengthBytes: lengthBytes)
            }
            try Qcow2Device.create(
                path: path, lengthBytes: lengthBytes, backing: backing, pool: .background)
        }
        let isOverSource = base?.device === nodes[0].device
        let chain: ImageChain
        do throws(BlockError) {
            chain = try await open(
                specification.path, format, partOf: specification.isPartial ? volume : nil,
                ignoresBacking: isOverSource)
        } catch {
            try? await made.withdraw()
            throw error
        }
        // From here on the file is the user's, whatever becomes of the mirror.
        try? await made.settle()
        return try checked(
            TargetImage(chain, of: volume, isNew: true, isOverSource: isOverSource), volume)
    }

    private func open(
        _ path: String, _ format: ImageFormat, partOf volume: Volume? = nil,
        ignoresBacking: Bool = false
    ) async throws(BlockError) -> ImageChain {
        try await IOPool.guest.run { () throws(BlockError) in
            guard let volume, format == .qcow2 else {
                return try ImageOpener.open(
                    path: path, format: format, readOnly: false, pool: .guest)
            }
            let header = try Qcow2Device.readHeader(path: path)
            guard ignoresBacking || header.backing == nil, !header.hasDataFile else {
                return try ImageOpener.open(
                    path: path, format: format, readOnly: false, pool: .guest)
            }
            let lock = try ImageLock(path: path, use: .writing)
            let found = try ImageFingerprint(of: lock, format: format)
            try Qcow2Check.repairIfDirty(path: path)
            let slot = DetachableBacking(OpaqueBacking(lengthBytes: volume.lengthBytes))
            let device = try Qcow2Device.open(
                path: path, readOnly: false, backing: slot, pool: .guest)
            return ImageChain(nodes: [
                ImageNode(
                    path: path, format: format, isDirect: false, device: device, lock: lock,
                    dataLock: nil, backing: slot, found: found)
            ])
        }
    }

    private func checked(
        _ target: TargetImage, _ volume: Volume
    ) throws(BlockError) -> TargetImage {
        let length = volume.lengthBytes
        // A qcow2 image has a length in whole sectors.
        let allowed = target.device is Qcow2Device ? length.alignedUp(to: 512) : length
        guard target.device.lengthBytes == allowed else {
            throw TargetImage.wrongLength(target.name, length, target.device.lengthBytes)
        }
        return target
    }
}
