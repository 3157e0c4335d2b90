import Bitmaps
package import BlockCore
package import Catalog
import Crypto
import DriverRaw
import Synchronization

// What users do to the bitmaps of a volume.
//
// Each change happens at a quiet instant and in one catalog transaction with the chunks that it
// concerns, so that it is whole or absent after a crash, and every write lies wholly before or
// wholly after it. Names, refusals and semantics are those of QEMU's block-dirty-bitmap-*.

/// What is known of one bitmap.
package struct BitmapStatus: Sendable {
    package var name: String
    package var granularityBytes: UInt64
    /// Dirty granules times granularity.
    package var dirtyBytes: UInt64
    package var isRecording: Bool
    /// Whether a job holds it.
    package var isBusy: Bool
    /// Why it can be trusted no longer, if it cannot.
    package var inconsistentReason: String?
    /// The point since which it records, if it continues one.
    package var continues: PointReference?
}

/// A bitmap by its volume and name.
package struct BitmapLocation: Sendable {
    package var volume: Volume
    package var name: String

    package init(volume: Volume, name: String) {
        self.volume = volume
        self.name = name
    }
}

extension Volume {
    /// The largest length of a bitmap's name in UTF-8.
    package static let bitmapNameBytesMax = 1023

    /// The granularity of a bitmap where none is asked for: the cluster size of the image, within
    /// 4 KiB to 64 KiB, or 64 KiB where there are no clusters, as QEMU chooses it.
    package var defaultGranularityBytes: UInt64 {
        using { chain in
            chain.top is RawDevice
                ? 64 << 10 : min(max(chain.top.allocationUnitBytes, 4 << 10), 64 << 10)
        }
    }

    /// All bitmaps, in the order in which they were added.
    package func bitmapStatuses() -> [BitmapStatus] {
        bitmaps.withLock { $0.entries.map(\.status) }
    }

    /// Adds a clean bitmap, which records from this instant on unless `isRecording` is false.
    package func addBitmap(
        _ bitmapName: String, granularityBytes: UInt64? = nil, isRecording: Bool = true
    ) async throws(BlockError) {
        try await change(
            .add(bitmapName, granularityBytes: granularityBytes, isRecording: isRecording))
    }

    /// Removes a bitmap and its stored bits. The only operation that an inconsistent one allows.
    package func removeBitmap(_ bitmapName: String) async throws(BlockError) {
        try await change(.remove(bitmapName))
    }

    /// Makes every bit clean. The bitmap then continues no point.
    package func clearBitmap(_ bitmapName: String) async throws(BlockError) {
        try await change(.clear(bitmapName))
    }

    /// Starts or stops recording. A bitmap that stopped continues no point from then on.
    package func setBitmap(_ bitmapName: String, recording: Bool) async throws(BlockError) {
        try await change(.setRecording(bitmapName, recording))
    }

    /// Adds the dirty ranges of `sources`, of this volume or others of its length, to `target`.
    /// The sources stay as they are.
    package func mergeBitmaps(
        _ sources: [BitmapLocation], into target: String
    ) async throws(BlockError) {
        try await change(.merge(sources, into: target))
    }

    private func change(_ change: BitmapChange) async throws(BlockError) {
        try await QuietTransaction.run([.change(self, change)])
    }

    /// Has the bitmaps stay until `releaseBitmaps`: they can be read, changed, and held by others
    /// too, but not removed. Throws if one of them does not exist, or cannot be trusted.
    package func holdBitmaps(_ names: [String]) async throws(BlockError) {
        try await queue.run { [self] (_) throws(BlockError) in
            for bitmapName in names {
                guard let entry = bitmaps.withLock({ $0[bitmapName] }) else {
                    throw Self.noBitmap(bitmapName, of: name)
                }
                guard !entry.record.isInconsistent else {
                    throw BlockError(
                        .invalid, "use bitmap '\(bitmapName)'", on: name,
                        detail: "it is inconsistent: it can only be removed")
                }
            }
            bitmapReaders.withLock { for name in names { $0[name, default: 0] += 1 } }
        }
    }

    /// Undoes one `holdBitmaps` of the same names.
    package func releaseBitmaps(_ names: [String]) {
        bitmapReaders.withLock { readers in
            for name in names { readers[name] = readers[name].flatMap { $0 > 1 ? $0 - 1 : nil } }
        }
    }

    /// The bits of a bitmap that is to be merged into one of a volume of that length; as `table` has
    /// them, if that is given.
    func mergeableBits(
        of bitmapName: String, lengthBytes length: UInt64, in table: BitmapTable? = nil
    ) throws(BlockError) -> [DirtyBitmap] {
        guard let entry = (table ?? bitmaps.withLock { $0 })[bitmapName] else {
            throw Self.noBitmap(bitmapName, of: name)
        }
        guard !entry.record.isInconsistent else {
            throw BlockError(
                .invalid, "merge bitmap '\(bitmapName)'", on: name,
                detail: "it is inconsistent: it can only be removed")
        }
        guard lengthBytes == length else {
            throw BlockError(
                .invalid, "merge bitmap '\(bitmapName)'", on: name,
                detail: "the volumes are \(lengthBytes) and \(length) bytes long")
        }
        return [entry.bits] + (entry.successor.map { [$0.bits] } ?? [])
    }

    /// Runs of dirty and clean from the start of `range`, at most `limit`, for block status.
    package func dirtyRuns(
        ofBitmap bitmapName: String, in range: ByteRange, limit: Int
    ) throws(BlockError) -> [(range: ByteRange, isDirty: Bool)] {
        guard let entry = bitmaps.withLock({ $0[bitmapName] }) else {
            throw Self.noBitmap(bitmapName, of: name)
        }
        var runs: [(range: ByteRange, isDirty: Bool)] = []
        var rest = range
        while !rest.isEmpty {
            var (run, isDirty) = entry.bits.nextRun(in: rest)
            if let successor = entry.successor, !isDirty {
                (run, isDirty) = successor.bits.nextRun(in: run)
            }
            precondition(!run.isEmpty)
            if let last = runs.last, last.isDirty == isDirty {
                runs[runs.count - 1].range.lengthBytes += run.lengthBytes
            } else if runs.count == limit {
                break
            } else {
                runs.append((run, isDirty))
            }
            rest = ByteRange(offset: run.end, end: range.end)
        }
        return runs
    }

    /// The SHA-256 of the bits as QEMU computes it, in lower-case hexadecimal: of one bit for each
    /// granule in whole 64-bit words.
    package func digest(ofBitmap bitmapName: String) throws(BlockError) -> String {
        guard let entry = bitmaps.withLock({ $0[bitmapName] }) else {
            throw Self.noBitmap(bitmapName, of: name)
        }
        guard !entry.record.isInconsistent else {
            throw BlockError(
                .invalid, "digest bitmap '\(bitmapName)'", on: name,
                detail: "it is inconsistent: it can only be removed")
        }
        var hash = SHA256()
        withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 8) { piece in
            for first in stride(from: 0, to: entry.bits.wordCount, by: piece.count / 8) {
                let words = min(piece.count / 8, entry.bits.wordCount - first)
                let bytes = UnsafeMutableRawBufferPointer(rebasing: piece[..<(words * 8)])
                entry.bits.copyWords(from: first, into: bytes)
                hash.update(bufferPointer: UnsafeRawBufferPointer(bytes))
            }
        }
        return hash.finalize().map { byte in
            String(byte >> 4, radix: 16) + String(byte & 15, radix: 16)
        }.joined()
    }

    static func noBitmap(_ bitmapName: String, of volume: String) -> BlockError {
        BlockError(
            .notFound, "find the bitmap", on: volume,
            detail: "Dirty bitmap '\(bitmapName)' not found")
    }
}

extension BitmapTable {
    /// The entry by that name, refused if a backup holds it or it cannot be trusted.
    func idle(
        _ bitmapName: String, of volume: String, allowsInconsistent: Bool = false
    ) throws(BlockError) -> BitmapEntry {
        guard let entry = self[bitmapName] else {
            throw Volume.noBitmap(bitmapName, of: volume)
        }
        guard entry.successor == nil else {
            throw BlockError(
                .busy, "use bitmap '\(bitmapName)'", on: volume,
                detail: "a backup of it is running: wait for it or cancel it")
        }
        if let jobID = entry.jobID {
            throw BlockError(
                .busy, "use bitmap '\(bitmapName)'", on: volume,
                detail: "job '\(jobID)' uses it: wait for it or cancel it")
        }
        guard allowsInconsistent || !entry.record.isInconsistent else {
            throw BlockError(
                .invalid, "use bitmap '\(bitmapName)'", on: volume,
                detail: "it is inconsistent (\(entry.record.inconsistency ?? "unknown")): "
                    + "it can only be removed")
        }
        return entry
    }
}

extension BitmapEntry {
    fileprivate var status: BitmapStatus {
        BitmapStatus(
            name: name, granularityBytes: record.granularityBytes, dirtyBytes: bits.dirtyBytes,
            isRecording: record.isRecording, isBusy: successor != nil || jobID != nil,
            inconsistentReason: record.isInconsistent
                ? record.inconsistency ?? "unknown" : nil,
            continues: record.continues)
    }
}
