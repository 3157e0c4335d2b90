import BlockCore
import Synchronization

/// The connections of one device, taken in turn.
final class NBDLink: AlignedStorage {
    /// The largest range of a request that carries no data; a length has 32 bits on the wire.
    static let pieceBytes: UInt64 = 1 << 30

    let connections: [NBDConnection]
    private let requestBytesMax: UInt64
    private let next = Atomic<Int>(0)

    init(connections: [NBDConnection], requestBytesMax: UInt64) {
        self.connections = connections
        self.requestBytesMax = requestBytesMax
    }

    func perform(_ operation: NBDOperation) async throws(BlockError) -> NBDRequest {
        let turn = next.wrappingAdd(1, ordering: .relaxed).newValue
        return try await connections[Int(UInt(bitPattern: turn) % UInt(connections.count))]
            .perform(operation)
    }

    func readAligned(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        let range = ByteRange(offset: offset, lengthBytes: UInt64(destination.count))
        for piece in range.pieces(requestBytesMax) {
            let part = destination.slice(Int(piece.offset - offset), Int(piece.lengthBytes))
            _ = try await perform(.read(at: piece.offset, into: part))
        }
    }

    func writeAligned(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        let range = ByteRange(offset: offset, lengthBytes: UInt64(source.count))
        for piece in range.pieces(requestBytesMax) {
            let part = source.slice(Int(piece.offset - offset), Int(piece.lengthBytes))
            _ = try await perform(.write(at: piece.offset, from: part))
        }
    }
}

extension ByteRange {
    /// The range in pieces of at most `pieceBytes`.
    func pieces(_ pieceBytes: UInt64) -> [ByteRange] {
        stride(from: offset, to: end, by: Int(pieceBytes)).map {
            ByteRange(offset: $0, end: min($0 + pieceBytes, end))
        }
    }
}
