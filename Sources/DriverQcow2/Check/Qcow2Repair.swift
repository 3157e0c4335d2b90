package import BlockCore

// Puts right what a check finds, in an order in which a crash at any point leaves an image that is
// no worse than it was, and that the next repair finishes:
//
// 1. Autoclear features that are unknown here are cleared: their data will not be looked after.
//    A snapshot table that breaks the format is written anew as below, and cut to its limits.
// 2. Entries that say something they must not are made to say what every reader takes them for.
// 3. Refcounts. If one is too low or a refcount block is damaged, all of them are written anew to
//    the end of the file, flushed, and the header is switched to them by one write within a sector.
//    If all are high enough, those that are too high are lowered in place.
// 4. The flags that allow changes in place are set as the refcounts are now. In between, a flag that
//    is missing costs a copy, and one too many was there before.
// 5. The image is checked again, and if it is whole the marks for dirty and corrupt are taken off.
//
// Each step is flushed before the next. Where some metadata cannot be followed, what hangs from it
// looks leaked and is not, so then nothing is freed.

/// What a repair may change.
package enum Qcow2RepairScope: String, Sendable, CaseIterable {
    /// Lower refcounts that are too high.
    case leaks
    /// Everything that can be put right.
    case all
}

extension Qcow2Check {
    /// Repairs the image at `path`, which nobody else may have open, and checks it again. Blocks.
    package static func repair(
        path: String, _ scope: Qcow2RepairScope
    ) throws(BlockError) -> Qcow2CheckReport {
        try repair(file: HostFile(path: path, access: .readWrite), scope)
    }

    /// Repairs the image at `path` if it is marked dirty: its writer kept refcounts lazily and was
    /// killed. For whoever is about to open it for writing, and holds whatever lock that takes: a
    /// writer that is alive leaves the mark as well. Blocks.
    package static func repairIfDirty(path: String) throws(BlockError) {
        let header = try StoredHeader(file: HostFile(path: path, access: .readOnly))
        if header.isDirty { try repairDirty(file: HostFile(path: path, access: .readWrite)) }
    }

    /// The same for a file that is open for writing already.
    package static func repairIfDirty(file: any StorageFile) throws(BlockError) {
        if try StoredHeader(file: file).isDirty { try repairDirty(file: file) }
    }

    private static func repairDirty(file: any StorageFile) throws(BlockError) {
        let report = try repair(file: file, .all)
        guard report.verdict != .corrupt else {
            throw BlockError(
                .corrupt, "repair after an unclean stop", on: file.path,
                detail: "\(report.corruptionCount) errors remain; "
                    + "see `tidemark image check \(file.path)`")
        }
    }

    /// Repairs the image in `file`, and checks it again.
    static func repair(
        file: any StorageFile, _ scope: Qcow2RepairScope
    ) throws(BlockError) -> Qcow2CheckReport {
        let before = try run(file: file)
        let header = try StoredHeader(file: file)
        if before.verdict == .clean && !header.isDirty && !header.isCorrupt { return before }
        let repair = ImageRepair(file: file, header: header)
        switch scope {
        case .leaks:
            // Refcount blocks that are something else as well must not be written.
            let isSafe =
                before.isComplete && before.kinds.isDisjoint(with: [.overlap, .refcountBlock])
            if before.leakCount > 0 && isSafe {
                try repair.lowerRefcounts()
                // What has one reference left may be changed in place again.
                if before.corruptionCount == 0 { try repair.setFlags() }
            }
        case .all: try repair.repairAll(before)
        }
        var after = before.verdict == .clean ? before : try run(file: file)
        if after.corruptionCount == 0 && after.isComplete {
            try repair.clearMarks()
            after.isMarkedDirty = false
            after.isMarkedCorrupt = false
        }
        after.leaksFixedCount =
            before.leakCount > after.leakCount ? before.leakCount - after.leakCount : 0
        after.corruptionsFixedCount =
            before.corruptionCount > after.corruptionCount
            ? before.corruptionCount - after.corruptionCount : 0
        return after
    }
}
