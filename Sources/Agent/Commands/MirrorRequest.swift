import BlockCore
import Control
import Jobs
import Volumes

/// What both commands ask for.
struct MirrorRequest {
    var device: String
    var target: String
    var sync: MirrorSyncMode
    /// Nil if the target is not to be made, and may be a volume.
    var mode: NewImageMode?
    var format: Volumes.ImageFormat?
    var bitmap: String?
    var bitmapMode: BitmapSyncMode?
    var base: String?
    var granularityBytes: UInt64?
    var bufferBytes: UInt64?
    var mayUnmap = true
    var isTargetZero: Bool
    var copyMode: CopyMode
    var autoConverge: Bool
    var replaces: String?
    var job: JobOptions

    init(_ arguments: DriveMirror.Arguments) {
        self.init(common: arguments)
        mode = NewImageMode(arguments.mode)
        format = arguments.format.flatMap { Volumes.ImageFormat(rawValue: $0.rawValue) }
        mayUnmap = arguments.unmap ?? true
    }

    init(_ arguments: BlockdevMirror.Arguments) { self.init(common: arguments) }

    private init(common arguments: some MirrorArguments) {
        device = arguments.device
        target = arguments.target
        sync = arguments.sync
        bitmap = arguments.bitmap
        bitmapMode = arguments.bitmapMode
        base = arguments.base
        granularityBytes = arguments.granularity
        bufferBytes = arguments.bufSize
        isTargetZero = arguments.targetIsZero ?? false
        copyMode = CopyMode(arguments.copyMode)
        autoConverge = arguments.autoConverge ?? false
        replaces = arguments.replaces
        job = JobOptions(
            copying: .mirror, arguments, device: arguments.device,
            speedBytes: arguments.speed ?? 0)
    }

    /// `images` are those that the volume is going to have when the mirror begins.
    func options(for volume: Volume, _ images: [String]) throws -> MirrorOptions {
        if let granularityBytes {
            try MirrorOptions.check(granularityBytes: granularityBytes)
            guard bitmap == nil else {
                throw ControlError.generic(
                    "granularity and bitmap cannot both be given: the bitmap has a granularity")
            }
        }
        return MirrorOptions(
            sync: try mirrorSync(of: volume, images), copyMode: copyMode,
            autoConverge: autoConverge, granularityBytes: granularityBytes,
            bufferBytes: bufferBytes, mayUnmap: mayUnmap, isTargetZero: isTargetZero)
    }

    private func mirrorSync(of volume: Volume, _ images: [String]) throws -> MirrorSync {
        if sync == .incremental || sync == .bitmap {
            guard let bitmap else {
                throw ControlError.generic("sync mode '\(sync.rawValue)' needs a bitmap")
            }
            guard base == nil else {
                throw ControlError.generic("base and a bitmap cannot both say what to copy")
            }
            return .bitmap(bitmap, try mirrorBitmapMode())
        }
        guard bitmap == nil, bitmapMode == nil else {
            throw ControlError.generic(
                "a bitmap and its mode go with sync mode 'incremental' or 'bitmap', not "
                    + "'\(sync.rawValue)'")
        }
        if let base {
            guard sync != .none, let position = images.firstIndex(of: base), position > 0 else {
                throw ControlError.generic(
                    "base '\(base)' is no image below the top of volume '\(volume.name)', or does "
                        + "not go with sync mode '\(sync.rawValue)'")
            }
            return .above(position)
        }
        switch sync {
        case .none: return .none
        case .top where images.count > 1: return .above(1)
        default: return .full
        }
    }

    private func mirrorBitmapMode() throws -> MirrorBitmapMode {
        if sync == .incremental {
            guard bitmapMode == nil || bitmapMode == .onSuccess else {
                throw ControlError.generic(
                    "sync mode 'incremental' means bitmap-mode 'on-success', no other")
            }
            return .onSuccess
        }
        switch bitmapMode {
        case nil: throw ControlError.generic("sync mode 'bitmap' needs a bitmap-mode")
        case .onSuccess: return .onSuccess
        case .never: return .never
        case .always: return .always
        }
    }

    /// The backing of a target that is made.
    func backing(_ images: [String]) -> TargetBacking {
        if let base, let position = images.firstIndex(of: base) { return .ofSource(position) }
        switch sync {
        case .none: return .ofSource(0)
        case .top: return .ofSource(1)
        default: return .none
        }
    }

    /// Throws unless what the target is to replace is what reads as it does: the whole chain.
    func checkReplaced(
        by target: TargetImage, of volume: Volume, _ images: [String]
    ) throws(ControlError) {
        guard let replaces else { return }
        guard replaces == volume.name || replaces == images[0] else {
            throw ControlError.generic(
                "Cannot replace '\(replaces)' by a node mirrored from '\(volume.name)', because it "
                    + "cannot be guaranteed that doing so would not lead to an abrupt change of "
                    + "visible data: name the volume, or its top image \(images[0])")
        }
        guard target.canPivot else {
            throw ControlError.generic(
                "volume '\(target.name)' cannot take the place of '\(replaces)': it goes on as one "
                    + "of its own")
        }
    }
}

extension NewImageMode {
    init(_ mode: ImageMode?) {
        self =
            switch mode {
            case .existing: .existing
            case nil, .absolutePaths: .absolutePaths
            case .relativePaths: .relativePaths
            }
    }
}

extension CopyMode {
    fileprivate init(_ mode: MirrorCopyMode?) {
        self =
            switch mode {
            case nil, .background: .background
            case .writeBlocking: .writeBlocking
            }
    }
}
