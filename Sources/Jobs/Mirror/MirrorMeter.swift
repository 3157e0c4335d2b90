import Synchronization

/// How fast guests make a mirror's target lag behind, and how fast the mirror makes that good.
package struct MirrorRates: Sendable, Equatable {
    /// Bytes a second that guests write and the target did not have yet, in whole granules.
    package var dirtyingBytes: UInt64 = 0
    /// Bytes a second that the job copies, zeroes included.
    package var copyingBytes: UInt64 = 0
}

// What guests have made due is not counted where they write: it is what was copied, and what became
// of the due bytes meanwhile. Whether they outrun the job shows at the ends of its passes: each pass
// copies all that was due at its start, so what is due at its end is what guests wrote during it. If
// that does not become less, it never will.

/// Measures the rates of a mirror.
final class MirrorMeter: Sendable {
    private static let interval = Duration.milliseconds(500)
    /// So many passes that gain nothing mean that guests are faster.
    private static let passCountMax = 3

    private struct State {
        var since = ContinuousClock.now
        var dueBytes: UInt64 = 0
        var doneBytes: UInt64 = 0
        var followedBytes: UInt64 = 0
        var rates = MirrorRates()
        var isMeasuring = false
        var lastPassBytes = UInt64.max
        var fruitlessPassCount = 0
        var isOutrun = false
    }

    private let state = Mutex(State())

    /// The rates of the last second or so.
    var rates: MirrorRates { state.withLock { $0.rates } }

    /// Whether guests were seen to write faster than the job copies, since the last `restart`.
    var isOutrun: Bool { state.withLock { $0.isOutrun } }

    /// Notes how much is due and how much has been copied so far, by the job and for guests that
    /// waited for it. May be called as often as one likes.
    func sample(dueBytes: UInt64, doneBytes: UInt64, followedBytes: UInt64) {
        state.withLock { state in
            let passed = ContinuousClock.now - state.since
            guard !state.isMeasuring || passed >= Self.interval else { return }
            if state.isMeasuring {
                let copied = doneBytes - state.doneBytes
                let due = Int64(clamping: dueBytes) - Int64(clamping: state.dueBytes)
                let dirtied =
                    max(0, due + Int64(clamping: copied))
                    + Int64(clamping: followedBytes - state.followedBytes)
                let fresh = MirrorRates(
                    dirtyingBytes: Self.rate(UInt64(dirtied), passed),
                    copyingBytes: Self.rate(copied, passed))
                state.rates = MirrorRates(
                    dirtyingBytes: (state.rates.dirtyingBytes + fresh.dirtyingBytes) / 2,
                    copyingBytes: (state.rates.copyingBytes + fresh.copyingBytes) / 2)
            }
            state.since = .now
            (state.dueBytes, state.doneBytes, state.followedBytes) =
                (dueBytes, doneBytes, followedBytes)
            state.isMeasuring = true
        }
    }

    /// Notes what is due at the end of a pass; `enoughBytes` or less can be copied at any time.
    func endPass(dueBytes: UInt64, enoughBytes: UInt64) {
        state.withLock { state in
            let isFruitless = dueBytes > enoughBytes && dueBytes >= state.lastPassBytes / 4 * 3
            state.fruitlessPassCount = isFruitless ? state.fruitlessPassCount + 1 : 0
            state.lastPassBytes = dueBytes
            if state.fruitlessPassCount >= Self.passCountMax { state.isOutrun = true }
        }
    }

    /// Forgets that guests were faster, since they are made to wait now or are not any more.
    func restart() {
        state.withLock { state in
            state.isOutrun = false
            state.fruitlessPassCount = 0
            state.lastPassBytes = .max
        }
    }

    private static func rate(_ bytes: UInt64, _ duration: Duration) -> UInt64 {
        UInt64(Double(bytes) / max(duration / .seconds(1), 0.001))
    }
}
