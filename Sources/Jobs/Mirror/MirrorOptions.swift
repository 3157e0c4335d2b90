package import BlockCore

/// What a mirror copies before it keeps its target in step.
package enum MirrorSync: Codable, Sendable, Equatable {
    /// Everything.
    case full
    /// What the images above the one at that position of the chain hold; with 1, the top's.
    case above(Int)
    /// Nothing.
    case none
    /// What the bitmap of that name has marked.
    case bitmap(String, MirrorBitmapMode)
}

/// What becomes of the bitmap that a mirror starts from, in the words of QEMU's backups. To settle
/// it is to make it tell what the target lacks.
package enum MirrorBitmapMode: String, Codable, Sendable, CaseIterable {
    /// It stays, and goes on recording.
    case never
    /// It is settled if the mirror succeeds.
    case onSuccess = "on-success"
    /// It is settled in any case.
    case always
}

/// How a volume is to be mirrored.
package struct MirrorOptions: Codable, Sendable, Equatable {
    package var sync: MirrorSync
    package var copyMode: CopyMode
    /// Whether it goes over to write-blocking by itself if guests write faster than it copies.
    package var autoConverge: Bool
    /// Nil for that of the volume's bitmaps; that of a bitmap that it starts from goes before.
    package var granularityBytes: UInt64?
    /// How much may be in flight.
    package var bufferBytes: UInt64
    /// Whether zeroes may give the target's storage back.
    package var mayUnmap: Bool
    /// Whether the target is known to read as zeroes.
    package var isTargetZero: Bool

    package init(
        sync: MirrorSync, copyMode: CopyMode = .background, autoConverge: Bool = false,
        granularityBytes: UInt64? = nil, bufferBytes: UInt64? = nil, mayUnmap: Bool = true,
        isTargetZero: Bool = false
    ) {
        self.sync = sync
        self.copyMode = copyMode
        self.autoConverge = autoConverge
        self.granularityBytes = granularityBytes
        self.bufferBytes = bufferBytes.flatMap { $0 == 0 ? nil : $0 } ?? Self.bufferBytesUsual
        self.mayUnmap = mayUnmap
        self.isTargetZero = isTargetZero
    }

    private static let bufferBytesUsual: UInt64 = 16 << 20

    /// Throws unless the granularity is one that QEMU takes.
    package static func check(granularityBytes: UInt64) throws(BlockError) {
        guard granularityBytes >= 512, granularityBytes <= 64 << 20 else {
            throw BlockError(
                .invalid, "mirror", on: "granularity",
                detail: "Parameter 'granularity' expects a value in range [512B, 64MB]")
        }
        guard granularityBytes.isPowerOfTwo else {
            throw BlockError(
                .invalid, "mirror", on: "granularity",
                detail: "Parameter 'granularity' expects a power of 2")
        }
    }
}
