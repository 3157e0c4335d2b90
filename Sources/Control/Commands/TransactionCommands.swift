/// Does several things together: all are prepared, and then take effect at one quiet instant of all
/// volumes concerned, or none does.
package enum Transaction: ControlCommand {
    package typealias Result = Nothing

    package static let name = "transaction"
    package static let summary = "do several things at one instant, or none of them"

    package struct Arguments: Codable, Sendable {
        package var actions: [TransactionAction]
        package var properties: TransactionProperties?

        package init(actions: [TransactionAction], properties: TransactionProperties? = nil) {
            self.actions = actions
            self.properties = properties
        }
    }
}

/// What holds for a whole transaction.
package struct TransactionProperties: Codable, Sendable, Equatable {
    /// Absent: individual.
    package var completionMode: TransactionCompletionMode?

    package init(completionMode: TransactionCompletionMode? = nil) {
        self.completionMode = completionMode
    }

    private enum CodingKeys: String, CodingKey {
        case completionMode = "completion-mode"
    }
}

/// What the jobs of a transaction mean to each other.
package enum TransactionCompletionMode: String, Codable, Sendable, CaseIterable {
    /// Each ends in its own way.
    case individual
    /// All succeed or none does.
    case grouped
}

/// What a transaction can do.
package enum TransactionActionKind: String, Codable, Sendable, CaseIterable {
    case abort
    case blockDirtyBitmapAdd = "block-dirty-bitmap-add"
    case blockDirtyBitmapRemove = "block-dirty-bitmap-remove"
    case blockDirtyBitmapClear = "block-dirty-bitmap-clear"
    case blockDirtyBitmapEnable = "block-dirty-bitmap-enable"
    case blockDirtyBitmapDisable = "block-dirty-bitmap-disable"
    case blockDirtyBitmapMerge = "block-dirty-bitmap-merge"
    case blockJobCancel = "block-job-cancel"
    case blockdevBackup = "blockdev-backup"
    case blockdevMirror = "blockdev-mirror"
    case blockdevSnapshotSync = "blockdev-snapshot-sync"
    case driveBackup = "drive-backup"
    case driveMirror = "drive-mirror"
    case driveReopen = "drive-reopen"
    case jobCancel = "job-cancel"
    case jobComplete = "job-complete"
    case volumeBackup = "volume-backup"

    /// What the action's `data` is.
    var dataType: any Decodable.Type {
        switch self {
        case .abort: Nothing.self
        case .blockDirtyBitmapAdd: BlockDirtyBitmapAdd.Arguments.self
        case .blockDirtyBitmapRemove, .blockDirtyBitmapClear, .blockDirtyBitmapEnable,
            .blockDirtyBitmapDisable:
            BitmapReference.self
        case .blockDirtyBitmapMerge: BlockDirtyBitmapMerge.Arguments.self
        case .blockJobCancel: BlockJobCancel.Arguments.self
        case .blockdevBackup: BlockdevBackup.Arguments.self
        case .blockdevMirror: BlockdevMirror.Arguments.self
        case .blockdevSnapshotSync: BlockdevSnapshotSync.Arguments.self
        case .driveBackup: DriveBackup.Arguments.self
        case .driveMirror: DriveMirror.Arguments.self
        case .driveReopen: DriveReopen.Arguments.self
        case .jobCancel, .jobComplete: JobReference.self
        case .volumeBackup: VolumeBackup.Arguments.self
        }
    }
}

/// One action: the name of a command, and its arguments. `abort` has the rest not happen.
package enum TransactionAction: Codable, Sendable, ReflectedUnion {
    case abort
    case blockDirtyBitmapAdd(BlockDirtyBitmapAdd.Arguments)
    case blockDirtyBitmapRemove(BitmapReference)
    case blockDirtyBitmapClear(BitmapReference)
    case blockDirtyBitmapEnable(BitmapReference)
    case blockDirtyBitmapDisable(BitmapReference)
    case blockDirtyBitmapMerge(BlockDirtyBitmapMerge.Arguments)
    /// Ends a mirror that is ready without a pivot, unless it is forced.
    case blockJobCancel(BlockJobCancel.Arguments)
    case blockdevBackup(BlockdevBackup.Arguments)
    case blockdevMirror(BlockdevMirror.Arguments)
    case blockdevSnapshotSync(BlockdevSnapshotSync.Arguments)
    case driveBackup(DriveBackup.Arguments)
    case driveMirror(DriveMirror.Arguments)
    case driveReopen(DriveReopen.Arguments)
    /// Gives a job up once all else has happened.
    case jobCancel(JobReference)
    /// Has a mirror that is ready pivot.
    case jobComplete(JobReference)
    case volumeBackup(VolumeBackup.Arguments)

    static var kinds: any Decodable.Type { TransactionActionKind.self }
    static var sample: TransactionAction { .abort }
    static var variants: [(String, any Decodable.Type)] {
        TransactionActionKind.allCases.map { ($0.rawValue, $0.dataType) }
    }

    private enum CodingKeys: CodingKey {
        case type, data
    }

    package var kind: TransactionActionKind {
        switch self {
        case .abort: .abort
        case .blockDirtyBitmapAdd: .blockDirtyBitmapAdd
        case .blockDirtyBitmapRemove: .blockDirtyBitmapRemove
        case .blockDirtyBitmapClear: .blockDirtyBitmapClear
        case .blockDirtyBitmapEnable: .blockDirtyBitmapEnable
        case .blockDirtyBitmapDisable: .blockDirtyBitmapDisable
        case .blockDirtyBitmapMerge: .blockDirtyBitmapMerge
        case .blockJobCancel: .blockJobCancel
        case .blockdevBackup: .blockdevBackup
        case .blockdevMirror: .blockdevMirror
        case .blockdevSnapshotSync: .blockdevSnapshotSync
        case .driveBackup: .driveBackup
        case .driveMirror: .driveMirror
        case .driveReopen: .driveReopen
        case .jobCancel: .jobCancel
        case .jobComplete: .jobComplete
        case .volumeBackup: .volumeBackup
        }
    }

    package init(from decoder: any Decoder) throws {
        let members = try decoder.container(keyedBy: CodingKeys.self)
        func data<T: Decodable>(_ type: T.Type) throws -> T {
            try members.decode(type, forKey: .data)
        }
        switch try members.decode(TransactionActionKind.self, forKey: .type) {
        case .abort:
            _ = try data(Nothing.self)
            self = .abort
        case .blockDirtyBitmapAdd:
            self = .blockDirtyBitmapAdd(try data(BlockDirtyBitmapAdd.Arguments.self))
        case .blockDirtyBitmapRemove:
            self = .blockDirtyBitmapRemove(try data(BitmapReference.self))
        case .blockDirtyBitmapClear:
            self = .blockDirtyBitmapClear(try data(BitmapReference.self))
        case .blockDirtyBitmapEnable:
            self = .blockDirtyBitmapEnable(try data(BitmapReference.self))
        case .blockDirtyBitmapDisable:
            self = .blockDirtyBitmapDisable(try data(BitmapReference.self))
        case .blockDirtyBitmapMerge:
            self = .blockDirtyBitmapMerge(try data(BlockDirtyBitmapMerge.Arguments.self))
        case .blockJobCancel: self = .blockJobCancel(try data(BlockJobCancel.Arguments.self))
        case .blockdevBackup: self = .blockdevBackup(try data(BlockdevBackup.Arguments.self))
        case .blockdevMirror: self = .blockdevMirror(try data(BlockdevMirror.Arguments.self))
        case .blockdevSnapshotSync:
            self = .blockdevSnapshotSync(try data(BlockdevSnapshotSync.Arguments.self))
        case .driveBackup: self = .driveBackup(try data(DriveBackup.Arguments.self))
        case .driveMirror: self = .driveMirror(try data(DriveMirror.Arguments.self))
        case .driveReopen: self = .driveReopen(try data(DriveReopen.Arguments.self))
        case .jobCancel: self = .jobCancel(try data(JobReference.self))
        case .jobComplete: self = .jobComplete(try data(JobReference.self))
        case .volumeBackup:
            self = .volumeBackup(try data(VolumeBackup.Arguments.self))
        }
    }

    package func encode(to encoder: any Encoder) throws {
        var members = encoder.container(keyedBy: CodingKeys.self)
        try members.encode(kind, forKey: .type)
        switch self {
        case .abort: try members.encode(Nothing(), forKey: .data)
        case .blockDirtyBitmapAdd(let data): try members.encode(data, forKey: .data)
        case .blockDirtyBitmapRemove(let data), .blockDirtyBitmapClear(let data),
            .blockDirtyBitmapEnable(let data), .blockDirtyBitmapDisable(let data):
            try members.encode(data, forKey: .data)
        case .blockDirtyBitmapMerge(let data): try members.encode(data, forKey: .data)
        case .blockJobCancel(let data): try members.encode(data, forKey: .data)
        case .blockdevBackup(let data): try members.encode(data, forKey: .data)
        case .blockdevMirror(let data): try members.encode(data, forKey: .data)
        case .blockdevSnapshotSync(let data): try members.encode(data, forKey: .data)
        case .driveBackup(let data): try members.encode(data, forKey: .data)
        case .driveMirror(let data): try members.encode(data, forKey: .data)
        case .driveReopen(let data): try members.encode(data, forKey: .data)
        case .jobCancel(let data), .jobComplete(let data): try members.encode(data, forKey: .data)
        case .volumeBackup(let data): try members.encode(data, forKey: .data)
        }
    }
}
