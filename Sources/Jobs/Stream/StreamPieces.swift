import BlockCore
package import Repository
import Volumes

/// Where a stream has its content from: pieces in ascending order, read by many at a time.
package enum StreamSource: Sendable {
    /// A restore point, on which the volume stands: every piece is proven by its digests.
    case point(AttachedRepository, PointID)
    /// The images of the volume's chain that are to leave it.
    case images
}

/// The pieces of one stream.
struct StreamPieces: Sendable {
    private enum Source: Sendable {
        case point(PointReader)
        case images(any BlockDevice, PieceSource)
        case nothing
    }

    /// What is to be stored at a range.
    enum Item: Sendable {
        case proven(PointPiece)
        case plain(Piece)

        var range: ByteRange {
            switch self {
            case .proven(let piece): piece.range
            case .plain(let piece): piece.range
            }
        }

        var isZero: Bool {
            switch self {
            case .proven(let piece): piece.isZero
            case .plain(let piece): piece.isZero
            }
        }
    }

    private let source: Source
    /// How many bytes there are in all.
    let lengthBytes: UInt64

    init(_ source: StreamSource, of segment: ChainSegment, for job: Job) async throws(BlockError) {
        switch source {
        case .point(let repository, let pointID):
            let reader = try await repository.repository.openReader(pointID, isSalvaging: false)
            self.source = .point(reader)
            lengthBytes = reader.lengthBytes
        case .images:
            guard let device = segment.source else {
                self.source = .nothing
                lengthBytes = segment.upper.flatMap(segment.device)?.lengthBytes ?? 0
                return
            }
            lengthBytes = device.lengthBytes
            self.source = .images(
                device, PieceSource(segment, device, to: segment.upper, for: job))
        }
    }

    func next() async throws(BlockError) -> Item? {
        switch source {
        case .point(let reader): try reader.next().map { .proven($0) }
        case .images(_, let pieces): try await pieces.next().map { .plain($0) }
        case .nothing: nil
        }
    }

    func read(_ item: Item, into content: BufferSlice) async throws(BlockError) {
        switch (source, item) {
        case (.point(let reader), .proven(let piece)):
            _ = try await reader.read(piece, into: content)
        case (.images(let device, _), .plain(let piece)):
            try await device.read(at: piece.range.offset, into: content)
        default: preconditionFailure("a piece of another source")
        }
    }

    func close() async {
        if case .point(let reader) = source { try? await reader.close() }
    }
}

extension PieceSource {
    /// What the images of `segment` hold that are to leave, as `device`, the uppermost, shows it, in
    /// pieces of whole units of the image `target`. What they do not hold counts as done.
    init(_ segment: ChainSegment, _ device: any BlockDevice, to target: String?, for job: Job) {
        let held = segment.held
        let lengthBytes = device.lengthBytes
        self.init(
            device: device, alignmentBytes: 1,
            pieceBytes: max(1 << 20, target.flatMap(segment.device)?.allocationUnitBytes ?? 0),
            select: { extent in
                let part = held.part(of: extent)
                job.advance(by: extent.range.lengthBytes - (part?.lengthBytes ?? 0))
                return part
            },
            nextRange: { offset in
                offset < lengthBytes ? ByteRange(offset: offset, end: lengthBytes) : nil
            })
    }
}
