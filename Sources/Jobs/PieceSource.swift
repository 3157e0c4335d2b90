import BlockCore
import Repository

// What a copy has to do, cut into pieces that several workers fetch in ascending order.
//
// The map of the source is asked for one window at a time, so that the first byte moves at once
// whatever the size of the disk, and that a mostly empty disk is crossed in steps of a window.
// A piece of zeroes may be as long as a window; a piece of data is at most `pieceBytes`. All
// pieces begin and end on a multiple of `alignmentBytes`, or at the end of the source.

/// A part of a copy.
struct Piece: Sendable {
    var range: ByteRange
    /// Whether the map said that it reads as zeroes.
    var isZero: Bool
    /// What it is to be compared with, if that was asked for.
    var parentCells: [ContentPiece] = []
}

/// Hands out the pieces of some ranges of a device, in ascending order.
actor PieceSource {
    private static let windowBytes: UInt64 = 256 << 20

    private let device: any BlockDevice
    private let alignmentBytes: UInt64
    private let pieceBytes: UInt64
    private let nextRange: @Sendable (UInt64) -> ByteRange?
    private let parent: ContentCursor?
    private let select: (@Sendable (Extent) -> ByteRange?)?
    private var position: UInt64 = 0
    private var pieces: [Piece] = []
    private var isFilling = false
    private var waiters: [CheckedContinuation<Void, Never>] = []

    /// `nextRange` gives the first range to copy at or after an offset, or nil. With `parent` each
    /// piece comes with what that reads as there. With `select`, which is asked of each extent in
    /// turn, only the parts of extents that it returns are copied.
    init(
        device: any BlockDevice, alignmentBytes: UInt64, pieceBytes: UInt64 = 1 << 20,
        parent: ContentCursor? = nil, select: (@Sendable (Extent) -> ByteRange?)? = nil,
        nextRange: @escaping @Sendable (UInt64) -> ByteRange?
    ) {
        self.device = device
        self.alignmentBytes = alignmentBytes
        self.pieceBytes = max(pieceBytes, alignmentBytes)
        self.parent = parent
        self.select = select
        self.nextRange = nextRange
    }

    /// The next piece; nil at the end.
    func next() async throws(BlockError) -> Piece? {
        while pieces.isEmpty {
            if isFilling {
                await withCheckedContinuation { waiters.append($0) }
                continue
            }
            isFilling = true
            defer {
                isFilling = false
                for waiter in waiters { waiter.resume() }
                waiters = []
            }
            guard try await fill() else { return nil }
        }
        return pieces.removeLast()
    }

    /// Maps the next window. False at the end.
    private func fill() async throws(BlockError) -> Bool {
        guard let range = nextRange(position), range.offset < device.lengthBytes else {
            return false
        }
        let start = max(position, range.offset.alignedDown(to: alignmentBytes))
        let end = min(
            range.end.alignedUp(to: alignmentBytes), start + Self.windowBytes,
            device.lengthBytes)
        let window = ByteRange(offset: start, end: end)
        var found: [Piece] = []
        for run in selected(try await device.allExtents(in: window)) {
            guard let first = run.first, let last = run.last else { continue }
            var cutter = PieceCutter(
                window: ByteRange(offset: first.range.offset, end: last.range.end),
                alignmentBytes: alignmentBytes, pieceBytes: pieceBytes)
            for extent in run { cutter.add(extent) }
            found += cutter.finish()
        }
        if let parent {
            for index in found.indices {
                found[index].parentCells = try await parent.pieces(of: found[index].range)
            }
        }
        position = end
        pieces = found.reversed()
        return true
    }
}

extension PieceSource {
    /// The parts of `extents` that are to be copied, in runs without a gap.
    private func selected(_ extents: [Extent]) -> [[Extent]] {
        guard let select else { return [extents] }
        var runs: [[Extent]] = []
        for var extent in extents {
            guard let part = select(extent), !part.isEmpty else { continue }
            extent.range = part
            if let last = runs.last?.last, last.range.end == part.offset {
                runs[runs.count - 1].append(extent)
            } else {
                runs.append([extent])
            }
        }
        return runs
    }
}

/// Cuts the extents of one window into pieces.
private struct PieceCutter {
    let window: ByteRange
    let alignmentBytes: UInt64
    let pieceBytes: UInt64
    private var pieces: [Piece] = []

    init(window: ByteRange, alignmentBytes: UInt64, pieceBytes: UInt64) {
        self.window = window
        self.alignmentBytes = alignmentBytes
        self.pieceBytes = pieceBytes
    }

    private var covered: UInt64 { pieces.last?.range.end ?? window.offset }

    /// Takes the next extent. Zeroes count only where they cover whole units: what they leave at
    /// their edges is data.
    mutating func add(_ extent: Extent) {
        if extent.isZero {
            let start = max(extent.range.offset, covered).alignedUp(to: alignmentBytes)
            let end =
                extent.range.end == window.end
                ? window.end : extent.range.end.alignedDown(to: alignmentBytes)
            guard start < end else { return }
            addData(upTo: start)
            pieces.append(Piece(range: ByteRange(offset: start, end: end), isZero: true))
        } else {
            addData(upTo: min(extent.range.end.alignedUp(to: alignmentBytes), window.end))
        }
    }

    mutating func finish() -> [Piece] {
        addData(upTo: window.end)
        return pieces
    }

    private mutating func addData(upTo end: UInt64) {
        while covered < end {
            let start = covered
            let pieceEnd = min((start + pieceBytes).alignedDown(to: pieceBytes), end)
            if let last = pieces.last, !last.isZero, start & (pieceBytes - 1) != 0 {
                pieces[pieces.count - 1].range = ByteRange(offset: last.range.offset, end: pieceEnd)
            } else {
                pieces.append(Piece(range: ByteRange(offset: start, end: pieceEnd), isZero: false))
            }
        }
    }
}
