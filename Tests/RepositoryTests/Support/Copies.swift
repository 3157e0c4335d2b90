import Synchronization

/// What a callback in the middle of a commit saw.
final class Copies: Sendable {
    private let folders = Mutex<[TemporaryFolder]>([])
    private let texts = Mutex<[[String]]>([])

    var last: TemporaryFolder? { folders.withLock { $0.last } }
    var notes: [[String]] { texts.withLock { $0 } }

    /// Keeps a copy of `folder` as it is now.
    func take(_ folder: TemporaryFolder) {
        guard let copy = try? folder.copy() else { return }
        folders.withLock { $0.append(copy) }
    }

    func note(_ lines: [String]) { texts.withLock { $0.append(lines) } }
}
