import BlockCore
import CLinux
import Glibc

// One connection and its thread.
//
// The thread alone touches libnbd. It takes requests from a queue, hands them to libnbd, waits for
// the server or for more requests, and finishes what libnbd's callbacks, which run inside that
// wait, have recorded. When the connection is lost it looks for the server again and issues what
// was in flight anew, by the rule of `NBDSession`.

/// A connection to an export, which is made again when it is lost.
final class NBDConnection: Sendable {
    private struct Inbox {
        var requests: [NBDRequest] = []
        var isStopping = false
        var isGivenUp = false
        var onStopped: UnsafeContinuation<Void, Never>?
    }

    private static let inFlightMax = 64

    private let session: NBDSession
    private let facts: NBDExportFacts
    private let options: NBDOptions
    private let inbox = HostMutex(Inbox())
    private let event: Int32

    /// Takes over `handle`, connected in the session's present epoch. Throws if the system has no
    /// descriptor or thread for it.
    init(
        _ handle: sending NBDHandle, session: NBDSession, facts: NBDExportFacts,
        options: NBDOptions
    ) throws(BlockError) {
        self.session = session
        self.facts = facts
        self.options = options
        event = clinux_event()
        guard event >= 0 else { throw .system("connect", on: session.uri, errno: errno) }
        let worker = NBDWorker(
            handle: handle, connection: self, session: session, facts: facts, options: options)
        try HostThread.tryStart(name: "nbd") { worker.run() }
    }

    deinit { close(event) }

    /// Runs `operation` to its end, whatever becomes of the calling task meanwhile.
    func perform(_ operation: NBDOperation) async throws(BlockError) -> NBDRequest {
        let request = NBDRequest(operation)
        let failure = await withUnsafeContinuation { continuation in
            request.continuation = continuation
            let mustWake = inbox.withLock { inbox in
                inbox.requests.append(request)
                return inbox.requests.count == 1
            }
            if mustWake { wake() }
        }
        if let failure { throw failure }
        return request
    }

    /// Ends the thread once nothing is in flight, and waits for that.
    func stop() async {
        await withUnsafeContinuation { continuation in
            inbox.withLock { inbox in
                inbox.isStopping = true
                inbox.onStopped = continuation
            }
            wake()
        }
    }

    /// Ends the thread some time later, for a device that nobody closed.
    func stopLater() {
        inbox.withLock { $0.isStopping = true }
        wake()
    }

    /// Has all requests fail, those under way included, and no server looked for.
    func giveUp() {
        inbox.withLock { $0.isGivenUp = true }
        wake()
    }

    // MARK: For the thread

    var eventDescriptor: Int32 { event }

    /// At most `limit` new requests, and whether there will be no more.
    func take(_ limit: Int) -> (requests: [NBDRequest], isStopping: Bool) {
        var count: UInt64 = 0
        _ = read(event, &count, 8)
        return inbox.withLock { inbox in
            let taken = Array(inbox.requests.prefix(limit))
            inbox.requests.removeFirst(taken.count)
            // What is left is taken when a completion makes room: nothing need wake us for it.
            return (taken, inbox.isStopping && inbox.requests.isEmpty)
        }
    }

    var isStopping: Bool { inbox.withLock { $0.isStopping } }

    var isGivenUp: Bool { inbox.withLock { $0.isGivenUp } }

    func didStop() {
        inbox.withLock { inbox in
            defer { inbox.onStopped = nil }
            return inbox.onStopped
        }?.resume()
    }

    static var depthMax: Int { inFlightMax }

    private func wake() {
        var one: UInt64 = 1
        _ = write(event, &one, 8)
    }
}
