import Bitmaps
package import BlockCore
import Catalog
import Synchronization

extension Volume {
    /// What a bitmap has marked, with what its successor has.
    package func dirtyRanges(ofBitmap bitmapName: String) throws(BlockError) -> [ByteRange] {
        guard let entry = bitmaps.withLock({ $0[bitmapName] }) else {
            throw Self.noBitmap(bitmapName, of: name)
        }
        guard !entry.record.isInconsistent else {
            throw BlockError(
                .invalid, "use bitmap '\(bitmapName)'", on: name,
                detail: "it is inconsistent: it can only be removed")
        }
        let successor = entry.successor.map { Array($0.bits.dirtyRanges()) } ?? []
        return Array(entry.bits.dirtyRanges()) + successor
    }

    /// A point of this volume that no write knows of yet: of `ranges`, or of all of it.
    package func makePoint(
        limits: FleeceLimits, granularityBytes: UInt64? = nil, keeping ranges: [ByteRange]? = nil
    ) -> PointInTime {
        PointInTime(
            source: self, lengthBytes: lengthBytes,
            granuleBytes: PointInTime.granuleBytes(
                forGranularity: granularityBytes ?? defaultGranularityBytes),
            limits: limits, owed: ranges ?? [wholeRange])
    }

    /// Has writes keep what they overwrite of `point` from an instant on at which there are none.
    package func addPoint(_ point: PointInTime) async throws(BlockError) {
        guard point.lengthBytes == lengthBytes else {
            throw BlockError(.busy, "keep a point", on: name, detail: "its length was changed")
        }
        try await atQuietInstant { [self] (_) throws(BlockError) in duties.points.append(point) }
    }

    /// No write knows of `point` any more.
    package func removePoint(_ point: PointInTime) async throws(BlockError) {
        try await atQuietInstant(tries: 30, deadline: .seconds(2)) {
            [self] (_) throws(BlockError) in
            duties.points.removeAll { $0 === point }
        }
    }
}
