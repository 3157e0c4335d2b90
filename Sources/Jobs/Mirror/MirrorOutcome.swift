package import Foundation
import Synchronization

/// What a mirror came to. Its last step comes after the job's work has ended.
package final class MirrorOutcome: Sendable {
    package let volume: String
    package let target: String
    private let copy: MirrorCopy

    private struct State {
        var duration = Duration.zero
        var isPivoted = false
        var instant: Date?
    }

    private let state = Mutex(State())

    init(volume: String, target: String, _ copy: MirrorCopy) {
        self.volume = volume
        self.target = target
        self.copy = copy
    }

    /// What was copied by the job, zeroes and what the target had already included.
    package var copiedBytes: UInt64 { copy.doneBytes.value }

    /// What was sent to the target as data, by the job and for guests.
    package var sentBytes: UInt64 { copy.sentBytes.value }

    package var duration: Duration { state.withLock { $0.duration } }

    /// Whether the target is the volume's image.
    package var isPivoted: Bool { state.withLock { $0.isPivoted } }

    /// When source and target were equal at the end, with no write in flight.
    package var instant: Date? { state.withLock { $0.instant } }

    func end(after duration: Duration) { state.withLock { $0.duration = duration } }

    func noteInstant(pivots: Bool) {
        state.withLock { state in
            state.instant = Date()
            state.isPivoted = pivots
        }
    }
}
