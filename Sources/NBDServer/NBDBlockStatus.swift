import BlockCore

// A reply to BLOCK_STATUS may describe less than was asked for: the client asks on. It must
// describe at least one byte for each context.
//
// A range may be as long as the export, so it is asked for in pieces, between which the pool's
// thread is free for others, and the reply goes out with what is known when `statusSeconds` are
// over.

/// What a request for block status asks for.
struct NBDStatusQuery: Sendable {
    /// The contexts with their ids, at least one.
    var contexts: [(id: UInt32, context: NBDMetaContext)]
    /// The most runs that are described for each.
    var runsMax: Int

    /// An upper bound of the reply's length, apart from its headers.
    var replyBytesMax: Int { contexts.count * runsMax * 16 }
}

extension NBDSession {
    /// The most runs that a reply describes for one context, and for all together, unless there
    /// are more contexts than that.
    private static let runsMax = 8192
    private static let runsOfContextsMax = 1 << 16
    /// The longest range that the device is asked about at once.
    private static let statusPieceBytes: UInt64 = 16 << 30
    private static let statusSeconds = 1
    // Extents that differ only in depth become one run, so one extent is not always enough.
    private static let extentsForOneRun = 16

    /// A query for the contexts with these ids, or all that were negotiated; nil if one of them
    /// was not.
    func statusQuery(_ ids: [UInt32]? = nil) -> NBDStatusQuery? {
        var chosen: [(id: UInt32, context: NBDMetaContext)] = []
        for id in ids ?? contexts.indices.map({ UInt32($0 + 1) }) {
            guard id >= 1, Int(id) <= contexts.count else { return nil }
            chosen.append((id, contexts[Int(id) - 1]))
        }
        guard !chosen.isEmpty else { return nil }
        return NBDStatusQuery(
            contexts: chosen,
            runsMax: max(1, min(Self.runsMax, Self.runsOfContextsMax / chosen.count)))
    }

    /// The runs from the start of the request's range, for each context of `query`.
    func status(
        _ query: NBDStatusQuery, _ request: NBDRequest
    ) async throws(BlockError) -> [(id: UInt32, runs: [NBDStatusRun])] {
        let runsMax = request.flags.contains(.reqOne) ? 1 : query.runsMax
        var result: [(id: UInt32, runs: [NBDStatusRun])] = []
        for (id, context) in query.contexts {
            let runs = try await runs(of: context, in: request.range, runsMax: runsMax)
            guard !runs.isEmpty else {
                throw BlockError(
                    .corrupt, "map", on: export.name, range: request.range,
                    detail: "no answer for \(context.name)")
            }
            result.append((id: id, runs: runs))
        }
        return result
    }

    private func runs(
        of context: NBDMetaContext, in range: ByteRange, runsMax: Int
    ) async throws(BlockError) -> [NBDStatusRun] {
        let end = ContinuousClock.now + .seconds(Self.statusSeconds)
        var runs = NBDStatusRuns(range)
        // One more than is wanted, to know where the last one ends.
        while runs.leftBytes > 0, runs.runs.count <= runsMax {
            let start = range.end - runs.leftBytes
            let piece = ByteRange(
                offset: start, lengthBytes: min(Self.statusPieceBytes, runs.leftBytes))
            let limit = max(Self.extentsForOneRun, runsMax + 1 - runs.runs.count)
            switch context {
            case .allocation:
                for extent in try await device.extents(in: piece, limit: limit) {
                    runs.append(extent.range.lengthBytes, NBDMetaContext.allocationFlags(extent))
                }
            case .allocationDepth:
                let nodeCount = device.chainNodeCount
                for extent in try await device.extents(in: piece, limit: limit) {
                    runs.append(
                        extent.range.lengthBytes,
                        NBDMetaContext.depth(extent, nodeCount: nodeCount))
                }
            case .dirtyBitmap(let name):
                for run in try export.dirtyRuns(bitmap: name, in: piece, limit: limit) {
                    runs.append(run.lengthBytes, run.isDirty ? NBDMetaContext.dirtyFlag : 0)
                }
            }
            let isStuck = start == range.end - runs.leftBytes
            if isStuck || ContinuousClock.now >= end { break }
            if runs.leftBytes > 0 { try await makeWay() }
        }
        return Array(runs.runs.prefix(runsMax))
    }
}

/// Gathers runs that follow each other, merging what says the same, never beyond a range.
struct NBDStatusRuns {
    private(set) var runs: [NBDStatusRun] = []
    /// How much of the range is not described yet.
    private(set) var leftBytes: UInt64

    init(_ range: ByteRange) {
        leftBytes = range.lengthBytes
    }

    /// Adds the next run.
    mutating func append(_ lengthBytes: UInt64, _ flags: UInt32) {
        let length = min(leftBytes, lengthBytes)
        guard length > 0 else { return }
        leftBytes -= length
        if runs.last?.flags == flags {
            runs[runs.count - 1].lengthBytes += length
        } else {
            runs.append(NBDStatusRun(lengthBytes: length, flags: flags))
        }
    }
}
