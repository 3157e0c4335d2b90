package import BlockCore

// A run of images that are to leave a volume's chain, between one that stays above them and one
// that stays below them, if any does. A job copies what they hold into one of these two:
//
//   stream   into `upper`, and only where that, looked at with the range held, holds nothing: a
//            newer write is never overwritten
//   commit   into `lower`, which nobody sees there, since what is copied hides it
//
// Nobody's content changes by either, so no bit is set and nothing is kept for a backup. What the
// images hold is what the uppermost of them maps to one of themselves. One that is shorter than what
// is above it hides what is below by zeroes that nothing holds; those count as well.

/// The images of a volume that a stream or a commit is about to make superfluous.
package struct ChainSegment: Sendable {
    package let volume: Volume
    /// The image above; nil if what leaves begins with the volume's top.
    package let upper: String?
    /// From the top down.
    package let going: [String]
    /// The image below; nil if what leaves ends with the last image of the chain.
    package let lower: String?

    /// What lies between the images at these positions of the chain.
    package init(of volume: Volume, below upper: Int?, above lower: Int?) {
        let paths = volume.imagePaths
        self.volume = volume
        self.upper = upper.map { paths[$0] }
        self.lower = lower.map { paths[$0] }
        going = Array(paths[(upper.map { $0 + 1 } ?? 0)..<(lower ?? paths.count)])
    }

    /// The device that shows what leaves, over what stays below; nil if nothing leaves.
    package var source: (any BlockDevice)? { going.first.flatMap(device) }

    /// What `source` has that the images that leave hold.
    package var held: HeldExtents {
        let lengths = going.compactMap { device($0)?.lengthBytes }
        return HeldExtents(
            nodeCount: going.count, zeroesFrom: lower == nil ? .max : lengths.min() ?? .max)
    }

    /// Behind the end of `source`, where the image above reads as zeroes and the one below does not
    /// have to.
    package var tail: ByteRange {
        guard let source, let lower = lower.flatMap(device) else {
            return ByteRange(offset: 0, lengthBytes: 0)
        }
        let end = min(
            upper.flatMap(device)?.lengthBytes ?? volume.lengthBytes, lower.lengthBytes)
        return ByteRange(offset: source.lengthBytes, end: end)
    }

    /// The device of an image that stays.
    package func device(_ path: String) -> (any BlockDevice)? {
        volume.using { chain in chain.nodes.first { $0.path == path }?.device }
    }

    /// The unit in which `upper` allocates.
    package var unitBytes: UInt64 { upper.flatMap(device)?.allocationUnitBytes ?? 1 }

    /// Makes what was stored in `upper` durable.
    package func flushUpper() async throws(BlockError) { try await upperDevice()?.flush() }

    /// The parts of `range` that `upper` does not hold itself.
    package func missing(in range: ByteRange) async throws(BlockError) -> [ByteRange] {
        let use = volume.images.begin()
        defer { volume.images.end(use) }
        guard let image = try upperDevice() else { return [] }
        let inside = ByteRange(offset: range.offset, end: min(range.end, image.lengthBytes))
        // With nothing below it, an image reads as zeroes where it holds nothing.
        return try await image.allExtents(in: inside)
            .filter { $0.depth > 0 && !($0.isZero && lower == nil) }.map(\.range)
    }

    /// Stores `content`, or zeroes, which the images that leave have at `range`, in `upper`, where
    /// that holds nothing. Returns how many bytes that was.
    package func populate(
        _ range: ByteRange, from content: BufferSlice?
    ) async throws(BlockError) -> UInt64 {
        // Nobody else writes an image below the top.
        let isTop = volume.imagePaths.first == upper
        let hold = isTop ? await volume.locks.acquire(range) : nil
        defer { if let hold { volume.locks.release(hold) } }
        guard let image = try upperDevice() else { return 0 }
        var storedBytes: UInt64 = 0
        let parts =
            Mutant.streamOverNewer.isActive ? [range] : try await missing(in: range)
        for part in parts {
            if let content {
                let offset = Int(part.offset - range.offset)
                try await image.write(
                    at: part.offset, from: content.slice(offset, Int(part.lengthBytes)))
            } else {
                try await image.writeZeroes(part, mayUnmap: true)
            }
            storedBytes += part.lengthBytes
        }
        return storedBytes
    }

    /// Takes the images out of the chain.
    package func drop(naming backingName: String? = nil) async throws(BlockError) {
        guard let upper else { return }
        try await volume.dropImages(between: upper, and: lower, naming: backingName)
    }

    private func upperDevice() throws(BlockError) -> (any BlockDevice)? {
        guard let upper else { return nil }
        guard let device = device(upper) else { throw Volume.noImage(upper, of: volume.name) }
        return device
    }
}

/// Which extents of a device its uppermost nodes hold.
package struct HeldExtents: Sendable {
    /// How many nodes count.
    package var nodeCount: Int
    /// From where on one of these is at its end: zeroes there may be its doing.
    package var zeroesFrom: UInt64

    /// The part of `extent` that they hold.
    package func part(of extent: Extent) -> ByteRange? {
        if extent.depth < nodeCount { return extent.range }
        guard extent.isZero, extent.range.end > zeroesFrom else { return nil }
        return ByteRange(offset: max(extent.range.offset, zeroesFrom), end: extent.range.end)
    }
}

extension Volume {
    /// What the images above the one at `position` hold.
    package func held(above position: Int) -> HeldExtents {
        using { chain in
            let nodes = chain.nodes.prefix(position)
            let lengths = nodes.map(\.device.lengthBytes)
            return HeldExtents(
                nodeCount: position,
                zeroesFrom: position < chain.nodes.count ? lengths.min() ?? .max : .max)
        }
    }
}
