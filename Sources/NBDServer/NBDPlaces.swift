import Synchronization

// Whoever can connect can open thousands of connections and say nothing. So the clients that are
// still choosing an export have places of their own, and where these are full a new one takes the
// place of the one which has been there for the longest time without a word, or else of the one
// that has spoken and got no further for the longest time. But each keeps its place for a moment,
// in which a client in earnest is through; until somebody's is over nobody is accepted. So a crowd
// can delay others, by a second for every few thousand or few hundred, and not keep them out.
//
// A client that has chosen an export is never dropped for another.

/// The places at a server: for clients that choose an export, and for clients that have.
final class NBDPlaces: Sendable {
    private struct State {
        /// In order of arrival.
        var choosing: [NBDConnection] = []
        var clients: Set<ObjectIdentifier> = []
    }

    /// What came of an attempt to enter.
    enum Entry {
        /// The connection has a place; another that lost its own is to be cut.
        case entered(inPlaceOf: NBDConnection?)
        /// In a moment there will be one.
        case full
    }

    private static let silentGrace = Duration.milliseconds(100)
    private static let speakingGrace = Duration.seconds(1)

    /// The memory that the connections share.
    let sharedMemory: NBDSharedMemory
    /// How many clients may be choosing.
    let handshakesMax: Int
    private let clientsMax: Int
    private let state = Mutex(State())

    init(_ limits: NBDLimits) {
        sharedMemory = NBDSharedMemory(bytes: limits.bytesInFlightSharedMax)
        handshakesMax = max(1, limits.handshakesMax)
        clientsMax = max(1, limits.connectionsMax)
    }

    /// Takes a place for `connection`, which begins, if there is one or will be at once.
    func enter(_ connection: NBDConnection) -> Entry {
        state.withLock { state in
            guard state.choosing.count >= handshakesMax else {
                state.choosing.append(connection)
                return .entered(inPlaceOf: nil)
            }
            let now = ContinuousClock.now
            func oldest(hasSpoken: Bool, grace: Duration) -> Int? {
                let index = state.choosing.firstIndex { $0.hasSpoken == hasSpoken }
                return index.flatMap { state.choosing[$0].began + grace <= now ? $0 : nil }
            }
            guard
                let index = oldest(hasSpoken: false, grace: Self.silentGrace)
                    ?? oldest(hasSpoken: true, grace: Self.speakingGrace)
            else { return .full }
            let dropped = state.choosing.remove(at: index)
            state.choosing.append(connection)
            return .entered(inPlaceOf: dropped)
        }
    }

    /// Changes the place of `connection` for one among the clients; false if there is none, or if
    /// the connection has lost its place.
    func becomeClient(_ connection: NBDConnection) -> Bool {
        state.withLock { state in
            guard state.clients.count < clientsMax,
                let index = state.choosing.firstIndex(where: { $0 === connection })
            else { return false }
            state.choosing.remove(at: index)
            state.clients.insert(ObjectIdentifier(connection))
            return true
        }
    }

    /// Gives up the place of `connection`, whatever it is.
    func leave(_ connection: NBDConnection) {
        state.withLock { state in
            state.choosing.removeAll { $0 === connection }
            state.clients.remove(ObjectIdentifier(connection))
        }
    }
}
