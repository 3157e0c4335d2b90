import BlockCore
import Repository
import Volumes

// Whether a backup will find room, before it begins. What it needs is estimated from above: what a
// bitmap calls dirty, or what the images of a volume hold as data. Zeroes among that are not stored
// in the end, so an estimate can be wrong on the safe side, and a user can do without the check.
// For compressed points and for comparisons nobody knows beforehand; the check is for a repository
// that is all but full then.

/// Looks whether a repository has room for the points that are planned.
struct SpaceCheck {
    let repository: AttachedRepository
    let isCompressed: Bool

    /// What the tables and manifests of a point take besides the rest, and what no repository
    /// should be short of.
    private static let overheadBytes: UInt64 = 4 << 20

    func check(_ plans: [BackupPlan], _ job: Job) async throws(BlockError) {
        let freeBytes = try await repository.repository.freeBytes()
        var neededBytes: UInt64 = 0
        for plan in plans {
            neededBytes += Self.overheadBytes
            try job.checkCancelled()
            neededBytes += try await estimate(plan, upTo: freeBytes)
            guard neededBytes <= freeBytes else {
                let names = plans.map(\.volume.name).joined(separator: ", ")
                throw BlockError(
                    .noSpace, "back up \(names)", on: repository.repository.location,
                    detail: "at least \(neededBytes) bytes are needed, \(freeBytes) are free: make "
                        + "room, or use --no-space-check if the disks hold many zeroes")
            }
        }
    }

    private func estimate(
        _ plan: BackupPlan, upTo limitBytes: UInt64
    ) async throws(BlockError) -> UInt64 {
        let dataBytes: UInt64
        switch plan.basis {
        case _ where isCompressed: dataBytes = 0
        case .comparison: dataBytes = 0
        case .bitmap:
            let status = plan.volume.bitmapStatuses().first { $0.name == plan.bitmapName }
            dataBytes = min(status?.dirtyBytes ?? 0, plan.volume.lengthBytes)
        case .everything:
            dataBytes = try await Self.dataBytes(of: plan.volume, upTo: limitBytes)
        }
        // A record of the digest table for each cell, and the image's own tables.
        let cells = dataBytes / Grid.cellBytes(granularityBytes: plan.granularityBytes)
        return dataBytes + cells * 64
    }

    /// What the images of `volume` hold as data; where that is found to be more than `limitBytes`,
    /// no more is looked for.
    private static func dataBytes(
        of volume: Volume, upTo limitBytes: UInt64
    ) async throws(BlockError) -> UInt64 {
        var dataBytes: UInt64 = 0
        var position: UInt64 = 0
        while position < volume.lengthBytes, dataBytes <= limitBytes {
            let rest = ByteRange(offset: position, end: volume.lengthBytes)
            let extents = try await volume.extents(in: rest, limit: 1024)
            guard let last = extents.last, last.range.end > position else { break }
            for extent in extents where !extent.isZero { dataBytes += extent.range.lengthBytes }
            position = last.range.end
        }
        return dataBytes
    }
}
