package import BlockCore
import Glibc
import Synchronization

/// Serves the exports of a table to the clients of a socket.
package final class NBDServer: Sendable {
    private let address: NBDAddress
    private let exports: NBDExportTable
    private let limits: NBDLimits
    private let places: NBDPlaces
    private let report: @Sendable (String) -> Void
    private let connections = NBDConnectionSet()
    private let listener = Mutex<NBDListener?>(nil)
    private let isStopping = Atomic(false)

    /// A server that does not listen yet. `report` is told, from any thread, of clients that broke
    /// the protocol and of what the system refuses.
    package convenience init(
        socketPath: String, exports: NBDExportTable, limits: NBDLimits = NBDLimits(),
        report: @escaping @Sendable (String) -> Void
    ) {
        self.init(at: .unix(path: socketPath), exports: exports, limits: limits, report: report)
    }

    /// The same for any address.
    package init(
        at address: NBDAddress, exports: NBDExportTable, limits: NBDLimits = NBDLimits(),
        report: @escaping @Sendable (String) -> Void
    ) {
        self.address = address
        self.exports = exports
        self.limits = limits
        places = NBDPlaces(limits)
        let limiter = NBDReportLimiter()
        self.report = { limiter.report($0, to: report) }
    }

    /// Where it listens: of TCP with the port that was found.
    package var place: String { listener.withLock { $0?.place } ?? "\(address)" }

    /// Listens, and serves whoever connects, until `stop`. A server starts once.
    package func start() throws(BlockError) {
        let listener = try self.listener.withLock { (listener) throws(BlockError) in
            guard listener == nil, !isStopping.load(ordering: .relaxed) else {
                throw BlockError(
                    .invalid, "start", on: "\(address)", detail: "the server was started before")
            }
            let new = try NBDListener(address)
            listener = new
            return new
        }
        HostThread.start(name: "nbd-accept") { [self] in accept(listener) }
    }

    /// Stops listening, lets requests in flight finish for `drainSeconds`, then cuts the clients
    /// off. What a device still holds after as long again is reported and left to it.
    package func stop() async {
        isStopping.store(true, ordering: .relaxed)
        listener.withLock { $0?.stop() }
        connections.seal()
        let limit = Duration.seconds(limits.drainSeconds)
        if await connections.waitUntilEmpty(upTo: limit) { return }
        connections.cut()
        if await connections.waitUntilEmpty(upTo: limit) { return }
        report("\(place): stopped; \(connections.count) clients' requests never completed")
    }

    private func accept(_ listener: NBDListener) {
        var number = 0
        while !isStopping.load(ordering: .relaxed) {
            do throws(BlockError) {
                let socket = try listener.accept()
                number += 1
                serve(socket, name: "nbd-\(number)")
            } catch {
                if isStopping.load(ordering: .relaxed) { return }
                report("\(error)")
                // Out of descriptors or memory: trying at once would only burn the processor.
                usleep(100_000)
            }
        }
    }

    private func serve(_ socket: NBDSocket, name: String) {
        let connection = NBDConnection(socket, exports, limits, places, name: name, report: report)
        guard connections.insert(connection) else { return }
        guard findPlace(for: connection) else { return connections.remove(connection) }
        do throws(BlockError) {
            try connection.start { [connections] in connections.remove($0) }
        } catch {
            places.leave(connection)
            connections.remove(connection)
            report("\(place): a client was turned away: \(error)")
        }
    }

    private func findPlace(for connection: NBDConnection) -> Bool {
        while !isStopping.load(ordering: .relaxed) {
            // Those that were dropped a moment ago have threads for a moment more.
            let hasThreads =
                connections.count <= limits.connectionsMax + 2 * places.handshakesMax
            if hasThreads, case .entered(let dropped) = places.enter(connection) {
                guard let dropped else { return true }
                report("\(place): too many clients choose an export at a time: dropped one")
                dropped.cut()
                return true
            }
            usleep(1000)
        }
        return false
    }
}
