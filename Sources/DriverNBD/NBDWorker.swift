import BlockCore
import Glibc

/// What the thread of a connection does.
///
/// `@unchecked Sendable` is true because only that thread touches it once it runs.
final class NBDWorker: @unchecked Sendable {
    private var handle: NBDHandle?
    private var epoch: UInt64
    /// Taken from the inbox, not yet handed to libnbd.
    private var waiting: [NBDRequest] = []
    private var inFlight: [NBDRequest] = []
    private var lastProgress = ContinuousClock.now

    private let connection: NBDConnection
    private let session: NBDSession
    private let facts: NBDExportFacts
    private let options: NBDOptions

    init(
        handle: sending NBDHandle, connection: NBDConnection, session: NBDSession,
        facts: NBDExportFacts, options: NBDOptions
    ) {
        self.handle = handle
        self.connection = connection
        self.session = session
        self.facts = facts
        self.options = options
        epoch = session.epoch
    }

    func run() {
        while true {
            let room = NBDConnection.depthMax - waiting.count - inFlight.count
            let (requests, isStopping) = connection.take(room)
            waiting += requests
            if connection.isGivenUp { giveUp() }
            if isStopping, waiting.isEmpty, inFlight.isEmpty { break }
            if handle != nil, epoch != session.epoch { drop(isStalled: false) }
            guard handle != nil || !waiting.isEmpty else {
                idle()
                continue
            }
            if handle == nil { reconnect() }
            if connection.isGivenUp { continue }
            let hadRequests = !waiting.isEmpty
            issueWaiting()
            // All of them were refused: others may be in the inbox, for which nothing will wake us.
            if hadRequests, inFlight.isEmpty { continue }
            exchange()
        }
        handle?.disconnect()
        handle = nil
        connection.didStop()
    }

    /// Waits for requests without a connection.
    private func idle() {
        var descriptor = pollfd(
            fd: connection.eventDescriptor, events: Int16(POLLIN), revents: 0)
        _ = poll(&descriptor, 1, -1)
    }

    private func issueWaiting() {
        guard let handle else { return }
        for request in waiting {
            if let refusal = session.refusal(of: request.operation) {
                request.finish(refusal)
                continue
            }
            if case .flush = request.operation { request.covered = session.acknowledgedChanges }
            if inFlight.isEmpty { lastProgress = .now }
            request.issueCount += 1
            if let number = handle.issue(request) {
                if handle.isLost {
                    request.issueCount -= 1
                    // Goes with the rest when the loss is noticed.
                    inFlight.append(request)
                } else {
                    request.finish(failure(of: request, number))
                }
            } else {
                inFlight.append(request)
            }
        }
        waiting = []
    }

    /// Waits for the server or for requests, and finishes what is complete.
    private func exchange() {
        guard handle != nil else { return }
        let rest =
            inFlight.isEmpty
            ? .seconds(3600) : options.stallLimit - (ContinuousClock.now - lastProgress)
        // One that broke while it was handed requests has no socket any more to wait on.
        let isWell =
            handle?.isLost == false
            && (rest <= .zero
                || handle?.wait(orEvent: connection.eventDescriptor, within: rest) == true)
        let isLost = !isWell || handle?.isLost != false
        // An error that comes of the loss is no answer of the server.
        finishCompleted(countsErrors: !isLost)
        if isLost {
            drop(isStalled: false)
        } else if !inFlight.isEmpty, ContinuousClock.now - lastProgress >= options.stallLimit {
            drop(isStalled: true)
        }
    }

    private func finishCompleted(countsErrors: Bool) {
        guard inFlight.contains(where: { $0.status != nil }) else { return }
        lastProgress = .now
        var rest: [NBDRequest] = []
        for request in inFlight {
            switch request.status {
            case .none: rest.append(request)
            case .some(0):
                if session.accept(request, in: epoch) {
                    request.finish(nil)
                } else {
                    rest.append(request)
                }
            case .some(let number):
                if countsErrors {
                    request.finish(failure(of: request, number))
                } else {
                    rest.append(request)
                }
            }
        }
        inFlight = rest
    }

    private func failure(of request: NBDRequest, _ number: Int32) -> BlockError {
        .system(
            request.operation.name, on: session.uri, errno: number, range: request.operation.range)
    }

    /// Gives a connection up that is lost, or whose server does not answer on it or another. What
    /// was in flight is issued again in the next epoch, as far as that is allowed.
    private func drop(isStalled: Bool) {
        session.end(epoch: epoch, byStall: isStalled)
        // Frees the commands: from here on libnbd touches no request and no buffer.
        handle = nil
        for request in inFlight { request.reset() }
        waiting = inFlight + waiting
        inFlight = []
        if session.wasStalled(epoch) { giveUpStalled() }
    }

    /// The server may do yet what it was asked: changes are not issued again, the rest not for ever.
    private func giveUpStalled() {
        let reason = "the server left it unanswered for \(options.stallLimit)"
        waiting.removeAll { request in
            if request.operation.isChange, request.issueCount > 0 {
                request.finish(session.abandon(request.operation, because: reason))
                return true
            }
            guard request.issueCount >= 3 else { return false }
            request.finish(
                BlockError(
                    .timedOut, request.operation.name, on: session.uri,
                    range: request.operation.range, detail: reason))
            return true
        }
    }

    /// Looks for the server until it is there or the limit is reached; then what waits fails.
    private func reconnect() {
        let end = ContinuousClock.now + options.reconnectLimit
        var pause = Duration.milliseconds(50)
        var last: BlockError?
        for attempt in 1...max(options.reconnectAttemptsMax, 1) {
            epoch = session.epoch
            do throws(BlockError) {
                let rest = min(end - .now, options.connectLimit)
                let new = try NBDHandle(uri: session.uri, limit: max(rest, .milliseconds(1)))
                let found = try new.facts()
                guard found == facts else {
                    throw BlockError(
                        .corrupt, "connect again", on: session.uri,
                        detail: "it is another export now: \(found) instead of \(facts)")
                }
                handle = new
                lastProgress = .now
                return
            } catch {
                last = error
            }
            let isOver =
                attempt == options.reconnectAttemptsMax || ContinuousClock.now + pause >= end
                || last?.kind == .corrupt || connection.isStopping || connection.isGivenUp
            if isOver { break }
            Self.sleep(pause)
            pause = min(pause * 2, .seconds(2))
        }
        failWaiting(
            .io, "the connection was lost and could not be made again: \(last?.description ?? "")")
    }

    private func giveUp() {
        if handle != nil { drop(isStalled: false) }
        failWaiting(.cancelled, "the server was given up")
    }

    private func failWaiting(_ kind: BlockError.Kind, _ reason: String) {
        for request in waiting {
            if request.operation.isChange, request.issueCount > 0 {
                request.finish(session.abandon(request.operation, because: reason))
            } else {
                request.finish(
                    BlockError(
                        kind, request.operation.name, on: session.uri,
                        range: request.operation.range, detail: reason))
            }
        }
        waiting = []
    }

    private static func sleep(_ duration: Duration) {
        usleep(UInt32(clamping: Int64(duration / .microseconds(1))))
    }
}
