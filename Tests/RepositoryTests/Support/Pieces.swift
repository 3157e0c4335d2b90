import Synchronization

@testable import Repository

/// Gathers what a callback is given.
final class Pieces: Sendable {
    private let pieces = Mutex<[ContentPiece]>([])

    var all: [ContentPiece] { pieces.withLock { $0 } }

    func add(_ piece: ContentPiece) { pieces.withLock { $0.append(piece) } }
}
