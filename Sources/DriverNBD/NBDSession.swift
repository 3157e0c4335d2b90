import BlockCore

// What all connections to one export know together, and the rule of what is durable.
//
// A server may keep what it acknowledged in memory until a flush. If it dies, that is gone, and the
// one that is started in its place flushes with success what it never had. Therefore:
//
// - A lost connection takes the others with it: whatever the reason, the server may be another one
//   now. Each round of connections is an *epoch*.
// - A change or a flush whose answer arrives in a later epoch than it was issued in does not count,
//   whatever the answer: it is issued again.
// - If writes had been acknowledged and not flushed when an epoch ended, then from there on every
//   flush fails. It would claim what an earlier connection may have lost.
// - What was in flight is issued again in the next epoch. Reads, maps and flushes can be; so can
//   writes, zeroes and discards, as they are the same data for the same range, and nobody writes
//   that range meanwhile. That the old server has given its requests up when its connection is gone
//   is taken for granted, as by QEMU's client.
// - It is *not* taken for granted of a server that merely stopped answering: it may do late what it
//   was asked. A change that it leaves unanswered ends with `timedOut`, its outcome unknown, and no
//   later change is accepted which it could overtake. No flush either: what is flushed is taken to
//   be final, and a backup would forget what that change may yet do. Likewise if the server does
//   not come back.

/// The state that the connections to one export share.
final class NBDSession: Sendable {
    private struct State {
        var epoch: UInt64 = 0
        /// Up to which epoch a server may still be at work that did not answer.
        var stalledEpoch: UInt64?
        /// How many changes were acknowledged, and up to which of them all are durable.
        var acknowledged: UInt64 = 0
        var flushed: UInt64 = 0
        var flushFailure: BlockError?
        var changeFailure: BlockError?
    }

    let uri: String
    private let state = HostMutex(State())

    init(uri: String) { self.uri = uri }

    /// The present epoch.
    var epoch: UInt64 { state.withLock { $0.epoch } }

    /// Why `operation` must not be issued; nil if it may.
    func refusal(of operation: NBDOperation) -> BlockError? {
        state.withLock { state in
            if operation.isChange {
                return Mutant.writeAfterUnknownOutcome.isActive ? nil : state.changeFailure
            }
            if case .flush = operation { return state.flushFailure }
            return nil
        }
    }

    /// How many changes a flush that is issued now covers.
    var acknowledgedChanges: UInt64 { state.withLock { $0.acknowledged } }

    /// A request was answered with success in `epoch`. False if that does not count.
    func accept(_ request: NBDRequest, in epoch: UInt64) -> Bool {
        state.withLock { state in
            let isFlush = if case .flush = request.operation { true } else { false }
            guard request.operation.isChange || isFlush else { return true }
            guard epoch == state.epoch else { return false }
            if isFlush {
                state.flushed = max(state.flushed, request.covered)
            } else {
                state.acknowledged += 1
            }
            return true
        }
    }

    /// A connection of `epoch` is lost, or given up since its server does not answer.
    func end(epoch: UInt64, byStall isStalled: Bool) {
        state.withLock { state in
            guard epoch == state.epoch else { return }
            state.epoch += 1
            if isStalled { state.stalledEpoch = epoch }
            guard state.acknowledged > state.flushed else { return }
            state.flushFailure =
                state.flushFailure
                ?? BlockError(
                    .io, "flush", on: uri,
                    detail: "the connection was lost with writes that were not flushed, which the "
                        + "server may have lost: check the data and open the image anew")
        }
    }

    /// Whether what was asked in `epoch` may yet be done by a server that did not answer then.
    func wasStalled(_ epoch: UInt64) -> Bool {
        state.withLock { state in state.stalledEpoch.map { epoch <= $0 } ?? false }
    }

    /// A change has an unknown outcome. Returns how its request, and every later change, fails.
    func abandon(_ operation: NBDOperation, because reason: String) -> BlockError {
        state.withLock { state in
            let failure = BlockError(
                .timedOut, operation.name, on: uri, range: operation.range,
                detail: "\(reason); whether it took effect is unknown")
            func later(_ operation: String) -> BlockError {
                BlockError(
                    .io, operation, on: uri,
                    detail: "an earlier write has an unknown outcome, and may happen yet: "
                        + "check the server and open the image anew")
            }
            state.changeFailure = state.changeFailure ?? later("write")
            state.flushFailure = state.flushFailure ?? later("flush")
            return failure
        }
    }
}
