import BlockCore
import TestSupport
import Testing

@testable import Jobs

@Suite struct PieceSourceTests {
    private func pieces(
        of device: any BlockDevice, alignmentBytes: UInt64, ranges: [ByteRange]
    ) async throws -> [Piece] {
        let source = PieceSource(
            device: device, alignmentBytes: alignmentBytes,
            nextRange: { offset in
                ranges.first { $0.end > offset }.map {
                    ByteRange(offset: max($0.offset, offset), end: $0.end)
                }
            })
        var pieces: [Piece] = []
        while let piece = try await source.next() { pieces.append(piece) }
        return pieces
    }

    @Test func piecesAreAlignedAscendingAndCoverTheRangesAndNothingIsCalledZeroThatIsNot()
        async throws
    {
        var random = Seed.generator("pieces")
        for _ in 0..<60 {
            let alignment = UInt64(4096) << UInt64.random(in: 0...5, using: &random)
            let length = UInt64.random(in: 1...(2 << 20), using: &random)
            let device = MemoryDevice(lengthBytes: Int(length))
            for _ in 0..<Int.random(in: 0...6, using: &random) {
                let offset = UInt64.random(in: 0..<length, using: &random)
                let count = min(UInt64.random(in: 1...300_000, using: &random), length - offset)
                try await device.write(
                    at: offset, from: .holding([UInt8](repeating: 1, count: Int(count))))
            }
            var ranges: [ByteRange] = []
            var position = UInt64.random(in: 0...length / 4, using: &random)
            while position < length {
                let end = min(length, position + UInt64.random(in: 1...(1 << 19), using: &random))
                ranges.append(ByteRange(offset: position, end: end))
                position = end + UInt64.random(in: 1...(1 << 19), using: &random)
            }
            let found = try await pieces(of: device, alignmentBytes: alignment, ranges: ranges)
            try check(found, alignment, length, ranges, device)
        }
    }

    private func check(
        _ found: [Piece], _ alignment: UInt64, _ length: UInt64, _ ranges: [ByteRange],
        _ device: MemoryDevice
    ) throws {
        var end: UInt64 = 0
        for piece in found {
            #expect(piece.range.offset >= end && !piece.range.isEmpty)
            end = piece.range.end
            #expect(piece.range.offset % alignment == 0)
            #expect(piece.range.end % alignment == 0 || piece.range.end == length)
            #expect(piece.isZero || piece.range.lengthBytes <= 1 << 20)
            if piece.isZero {
                var bytes = [UInt8](repeating: 1, count: Int(piece.range.lengthBytes))
                try bytes.withMutableBytes { (bytes) throws(BlockError) in
                    _ = try device.tryRead(at: piece.range.offset, into: bytes)
                }
                #expect(bytes.allSatisfy { $0 == 0 })
            }
        }
        for range in ranges {
            let covered = found.reduce(0) { $0 + $1.range.intersection(range).lengthBytes }
            #expect(covered == range.lengthBytes)
        }
    }
}
