package import BlockCore
import Catalog
import DriverQcow2

// A volume goes on with images that somebody else has made: a copy that was brought in step by other
// means, an overlay that was moved under another base.
//
//   prepare    the new images are locked, opened and checked, with all that is behind them
//   instant    the old top is flushed and the new one too · commit · the new is the top
//   then       the old images are closed
//
// A failure anywhere before the commit leaves the old images serving, as if nothing had been asked.
// That the new ones have the content that guests expect is the word of whoever asks; so the bitmaps
// are believed afterwards only if that is said too, and else the next backup compares.

extension VolumeStore {
    /// Opens and checks the images from `path` down for a volume, and has them take its images'
    /// place. With `isSame` they are said to read as the volume does.
    package func prepareReopen(
        _ name: String, on path: String, format: ImageFormat, isSame: Bool
    ) async throws(BlockError) -> QuietAction {
        let volume = try volume(name)
        guard !volume.isReadOnly else {
            throw BlockError(.readOnly, "open other images", on: name)
        }
        try await checkIsAlone(name, paths: [path])
        let chain = try await IOPool.guest.run { () throws(BlockError) in
            try ImageOpener.open(path: path, format: format, readOnly: false, pool: .guest)
        }
        do throws(BlockError) {
            try await checkIsAlone(name, paths: chain.nodes.map(\.path))
            try volume.checkLength(of: chain)
        } catch {
            try? await chain.close()
            throw error
        }
        var action = QuietAction([volume.reopening(on: chain, isSame: isSame)])
        action.happened = { outcome in
            for images in outcome.retired(of: volume) { await images.close() }
        }
        action.withdraw = { try? await chain.close() }
        return action
    }
}

extension Volume {
    fileprivate func checkLength(of chain: ImageChain) throws(BlockError) {
        // A qcow2 image has a length in whole sectors.
        let allowed = chain.top is Qcow2Device ? lengthBytes.alignedUp(to: 512) : lengthBytes
        guard chain.top.lengthBytes == allowed else {
            throw BlockError(
                .invalid, "open other images", on: name,
                detail: "\(chain.nodes[0].path) has \(chain.top.lengthBytes) bytes, the volume "
                    + "\(lengthBytes)")
        }
    }

    fileprivate func reopening(on chain: ImageChain, isSame: Bool) -> QuietStep {
        QuietStep(
            "open other images", of: self,
            newImages: QuietStep.NewImages(use: "a change of its images", ownsTop: false),
            settle: { [self] (_) async throws(BlockError) in
                try checkImagesMayGo()
                // The length may have changed since.
                try checkLength(of: chain)
                try await top.flush()
                if let image = top as? Qcow2Device { try await image.settle() }
                try await chain.top.flush()
                return chain
            },
            change: { [self] (tables, transaction) in
                try tables[self].checkNobodyReads(self)
                guard !isSame else { return }
                let reason = "other images were opened, \(chain.nodes[0].path)"
                try transaction.distrustBitmaps(ofVolume: id, reason: reason)
                for index in tables[self].entries.indices {
                    let record = tables[self].entries[index].record
                    tables[self].entries[index].record.inconsistency =
                        record.inconsistency ?? reason
                }
            })
    }
}

extension BitmapTable {
    /// Throws if a job relies on the volume's content.
    fileprivate func checkNobodyReads(_ volume: Volume) throws(BlockError) {
        let user = volume.workingJobID
        guard volume.duties.points.isEmpty, user == nil,
            entries.allSatisfy({ $0.successor == nil })
        else {
            throw BlockError(
                .invalid, "open other images", on: volume.name,
                detail: "\(user ?? "a backup") is at work on it: wait for that or cancel it")
        }
    }
}
