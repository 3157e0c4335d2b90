package import BlockCore
import DriverNBD
import DriverQcow2
import DriverRaw

extension VolumeStore {
    /// Opens what `specification` says for a mirror of `volume`, made if that is to be.
    package func openTarget(
        _ specification: TargetSpecification, for volume: Volume
    ) async throws(BlockError) -> TargetImage {
        let path = specification.path
        if NBDDevice.isURI(path) {
            let chain = try await Self.open(path, .raw)
            return try await checked(TargetImage(chain, of: volume), volume)
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
        guard specification.isPartial, format == .qcow2 else {
            let chain = try await Self.open(path, format)
            return try await checked(TargetImage(chain, of: volume), volume)
        }
        let (chain, below) = try await Self.openPart(path, of: volume)
        return try await checked(TargetImage(chain, of: volume, below: below), volume)
    }

    private func makeTarget(
        _ specification: TargetSpecification, for volume: Volume
    ) async throws(BlockError) -> TargetImage {
        let nodes = (specification.snapshot.map { [$0.overlay] } ?? []) + volume.using { $0.nodes }
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
        let chain: ImageChain
        do throws(BlockError) {
            if specification.isPartial, format == .qcow2 {
                chain = try await Self.openPart(specification.path, of: volume).chain
            } else {
                chain = try await Self.open(specification.path, format)
            }
        } catch {
            try? await made.withdraw()
            throw error
        }
        // From here on the file is the user's, whatever becomes of the mirror.
        try? await made.settle()
        return try await checked(
            TargetImage(
                chain, of: volume, isNew: true, below: base.map { .source($0.device) } ?? .nothing),
            volume)
    }

    static func open(
        _ path: String, _ format: ImageFormat
    ) async throws(BlockError) -> ImageChain {
        try await IOPool.guest.run { () throws(BlockError) in
            try ImageOpener.open(path: path, format: format, readOnly: false, pool: .guest)
        }
    }

    /// Opens a qcow2 image that is to receive a part of what `volume` has, without what is below it;
    /// an image that keeps its data in another file with that.
    static func openPart(
        _ path: String, of volume: Volume
    ) async throws(BlockError) -> (chain: ImageChain, below: TargetImage.Below) {
        try await IOPool.guest.run { () throws(BlockError) in
            let header = try Qcow2Device.readHeader(path: path)
            guard !header.hasDataFile else {
                return (
                    try ImageOpener.open(
                        path: path, format: .qcow2, readOnly: false, pool: .guest), .nothing
                )
            }
            let lock = try ImageLock(path: path, use: .writing)
            let found = try ImageFingerprint(of: lock, format: .qcow2)
            try Qcow2Check.repairIfDirty(path: path)
            let slot = DetachableBacking(OpaqueBacking(lengthBytes: volume.lengthBytes))
            let device = try Qcow2Device.open(
                path: path, readOnly: false, backing: slot, pool: .guest)
            let node = ImageNode(
                path: path, format: .qcow2, isDirect: false, device: device, lock: lock,
                dataLock: nil, backing: slot, found: found)
            return (
                ImageChain(nodes: [node]), header.backing == nil ? .nothing : .named
            )
        }
    }

    func checked(
        _ target: TargetImage, _ volume: Volume
    ) async throws(BlockError) -> TargetImage {
        let length = volume.lengthBytes
        // A qcow2 image has a length in whole sectors.
        let allowed = target.device is Qcow2Device ? length.alignedUp(to: 512) : length
        guard target.device.lengthBytes == allowed else {
            let error = TargetImage.wrongLength(target.name, length, target.device.lengthBytes)
            try? await target.close()
            throw error
        }
        return target
    }
}
