import BlockCore
import Synchronization

/// Reads what a point stores, through its chain, and compares it with the point's digest table.
///
/// A few tasks take batches of adjacent cells from the table in turn, so that reading and digesting
/// overlap. Data that cannot be read is bad as data that differs is; the rest is still checked.
final class PointVerifier: Sendable {
    /// Adjacent records of one kind that are read together.
    private struct Batch {
        var range: ByteRange
        /// One for each cell; empty for zeroes.
        var digests: [CellDigest] = []
    }

    private struct Source {
        var reader: DigestTableReader
        /// Read ahead, and not part of the batch before.
        var next: TableRecord?
        var batchCount: UInt64 = 0
    }

    private struct Findings {
        var bad: [ByteRange] = []
        var checkedBytes: UInt64 = 0
        var passedBytes: UInt64 = 0
        var failure: BlockError?
    }

    private static let batchBytes: UInt64 = 1 << 20
    private static let taskCount = 4

    private let device: any BlockDevice
    private let header: DigestTableHeader
    private let totalBytes: UInt64
    private let subset: VerifySubset
    private let progress: @Sendable (UInt64, UInt64) async -> Void
    private let pool: IOPool
    private let source: Mutex<Source>
    private let findings = Mutex(Findings())

    /// - Parameters:
    ///   - device: the volume at the point.
    ///   - openTable: opens the point's table; called once.
    ///   - totalBytes: what all records come to, for the progress.
    init(
        device: any BlockDevice, openTable: () throws(BlockError) -> DigestTableReader,
        totalBytes: UInt64, subset: VerifySubset, pool: IOPool,
        progress: @escaping @Sendable (UInt64, UInt64) async -> Void
    ) throws(BlockError) {
        self.device = device
        self.totalBytes = totalBytes
        self.subset = subset
        self.pool = pool
        self.progress = progress
        source = Mutex(Source(reader: try openTable()))
        header = source.withLock { $0.reader.header }
    }

    /// Compares everything and puts what it finds into `report`. A damaged table is a problem in
    /// the report; being cancelled throws.
    func run(_ report: inout VerifyReport) async throws(BlockError) {
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<Self.taskCount {
                group.addTask(executorPreference: pool) { await self.work() }
            }
        }
        let found = findings.withLock { $0 }
        if let failure = found.failure {
            guard failure.kind == .corrupt || failure.kind == .io else { throw failure }
            report.note(failure)
        }
        report.checkedBytes = found.checkedBytes
        report.badRanges = Self.merged(found.bad)
    }

    private func work() async {
        do throws(BlockError) {
            while let batch = try nextBatch() {
                if Task.isCancelled {
                    throw BlockError(.cancelled, "verify", on: device.nodeName)
                }
                let bad = await check(batch)
                let passed = findings.withLock { findings in
                    findings.bad += bad
                    findings.checkedBytes += batch.range.lengthBytes
                    findings.passedBytes += batch.range.lengthBytes
                    return findings.passedBytes
                }
                await progress(passed, totalBytes)
            }
        } catch {
            findings.withLock { $0.failure = $0.failure ?? error }
        }
    }

    private func nextBatch() throws(BlockError) -> Batch? {
        if findings.withLock({ $0.failure != nil }) { return nil }
        return try source.withLock { (source) throws(BlockError) -> Batch? in
            while let batch = try Self.read(&source) {
                source.batchCount += 1
                if subset.contains(source.batchCount - 1) { return batch }
                findings.withLock { $0.passedBytes += batch.range.lengthBytes }
            }
            return nil
        }
    }

    private static func read(_ source: inout Source) throws(BlockError) -> Batch? {
        var first = source.next
        source.next = nil
        if first == nil { first = try source.reader.next() }
        guard let first else { return nil }
        var batch = Batch(range: first.range)
        guard let digest = first.digest else { return batch }
        batch.digests.append(digest)
        while batch.range.lengthBytes < batchBytes, let record = try source.reader.next() {
            guard let digest = record.digest, record.range.offset == batch.range.end else {
                source.next = record
                break
            }
            batch.digests.append(digest)
            batch.range.lengthBytes += record.range.lengthBytes
        }
        return batch
    }

    private func check(_ batch: Batch) async -> [ByteRange] {
        batch.digests.isEmpty ? await checkZeroes(batch.range) : await checkData(batch)
    }

    private func checkData(_ batch: Batch) async -> [ByteRange] {
        let buffer = BufferPool.shared.take(Int(batch.range.lengthBytes))
        let data = buffer.prefix(Int(batch.range.lengthBytes))
        let isRead = await isReadable(batch.range, into: data)
        var bad: [ByteRange] = []
        var start = 0
        for digest in batch.digests {
            let offset = batch.range.offset + UInt64(start)
            let cell = ByteRange(offset: offset, lengthBytes: header.cellBytes(at: offset))
            let piece = data.slice(start, Int(cell.lengthBytes))
            // One unreadable sector does not condemn its neighbours: each cell is tried again.
            var isGood = isRead
            if !isRead { isGood = await isReadable(cell, into: piece) }
            if !isGood || header.algorithm.digest(of: piece.readOnlyBytes) != digest {
                bad.append(cell)
            }
            start += piece.count
        }
        return bad
    }

    private func isReadable(_ range: ByteRange, into data: BufferSlice) async -> Bool {
        do throws(BlockError) {
            try await device.read(at: range.offset, into: data)
            return true
        } catch {
            return false
        }
    }

    /// What the mapping says is zero need not be read: reading it would ask the same mapping.
    private func checkZeroes(_ range: ByteRange) async -> [ByteRange] {
        var bad: [ByteRange] = []
        var position = range.offset
        while position < range.end {
            let rest = ByteRange(offset: position, end: range.end)
            let extents = try? await device.extents(in: rest, limit: 1024)
            guard let extents, let last = extents.last, last.range.end > position else {
                return bad + [rest]
            }
            for extent in extents where !extent.isZero {
                bad += await readZeroes(extent.range)
            }
            position = last.range.end
        }
        return bad
    }

    private func readZeroes(_ range: ByteRange) async -> [ByteRange] {
        let buffer = BufferPool.shared.take(Int(min(range.lengthBytes, Self.batchBytes)))
        var bad: [ByteRange] = []
        var position = range.offset
        while position < range.end {
            let piece = ByteRange(
                offset: position, end: min(position + Self.batchBytes, range.end))
            let data = buffer.prefix(Int(piece.lengthBytes))
            let isRead = await isReadable(piece, into: data)
            if !isRead || !data.readOnlyBytes.isAllZero { bad.append(piece) }
            position = piece.end
        }
        return bad
    }

    private static func merged(_ ranges: [ByteRange]) -> [ByteRange] {
        var result: [ByteRange] = []
        for range in ranges.sorted(by: { $0.offset < $1.offset }) {
            if let last = result.last, last.end == range.offset {
                result[result.count - 1].lengthBytes += range.lengthBytes
            } else {
                result.append(range)
            }
        }
        return result
    }
}
