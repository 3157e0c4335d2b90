import BlockCore

// A reply to BLOCK_STATUS may describe less than was asked for: the client asks on. It must
// describe at least one byte for each context.

extension NBDSession {
    /// The most runs that a reply describes for one context.
    private static let statusRunsMax = 8192
    // Extents that differ only in depth become one run, so one extent is not always enough.
    private static let extentsForOneRun = 16

    /// The runs from the start of the request's range, for each negotiated context.
    func statusOfContexts(
        _ request: NBDRequest
    ) async throws(BlockError) -> [(id: UInt32, runs: [NBDStatusRun])] {
        let isOne = request.flags.contains(.reqOne)
        var result: [(id: UInt32, runs: [NBDStatusRun])] = []
        for (index, context) in contexts.enumerated() {
            var runs =
                switch context {
                case .allocation: try await allocationRuns(request.range, isOne: isOne)
                case .dirtyBitmap(let name): try dirtyRuns(name, request.range, isOne: isOne)
                }
            if isOne { runs = Array(runs.prefix(1)) }
            guard !runs.isEmpty else {
                throw BlockError(
                    .corrupt, "map", on: export.name, range: request.range,
                    detail: "no answer for \(context.name)")
            }
            result.append((id: UInt32(index + 1), runs: runs))
        }
        return result
    }

    private func allocationRuns(
        _ range: ByteRange, isOne: Bool
    ) async throws(BlockError) -> [NBDStatusRun] {
        let extents = try await device.extents(
            in: range, limit: isOne ? Self.extentsForOneRun : Self.statusRunsMax)
        var runs = NBDStatusRuns(range)
        for extent in extents {
            let flags =
                (extent.isHole ? NBDMetaContext.holeFlag : 0)
                | (extent.isZero ? NBDMetaContext.zeroFlag : 0)
            runs.append(extent.range.lengthBytes, flags)
        }
        return runs.runs
    }

    private func dirtyRuns(
        _ bitmap: String, _ range: ByteRange, isOne: Bool
    ) throws(BlockError) -> [NBDStatusRun] {
        let dirty = try export.dirtyRuns(
            bitmap: bitmap, in: range, limit: isOne ? 1 : Self.statusRunsMax)
        var runs = NBDStatusRuns(range)
        for run in dirty {
            runs.append(run.lengthBytes, run.isDirty ? NBDMetaContext.dirtyFlag : 0)
        }
        return runs.runs
    }
}

/// Gathers runs that follow each other, merging what says the same, never beyond a range.
struct NBDStatusRuns {
    private(set) var runs: [NBDStatusRun] = []
    private var leftBytes: UInt32

    init(_ range: ByteRange) {
        leftBytes = UInt32(clamping: range.lengthBytes)
    }

    /// Adds the next run.
    mutating func append(_ lengthBytes: UInt64, _ flags: UInt32) {
        let length = min(leftBytes, UInt32(clamping: lengthBytes))
        guard length > 0 else { return }
        leftBytes -= length
        if runs.last?.flags == flags {
            runs[runs.count - 1].lengthBytes += length
        } else {
            runs.append(NBDStatusRun(lengthBytes: length, flags: flags))
        }
    }
}
