import BlockCore
import Control
import Logging
import NBDServer

/// The socket that `nbd-server-start` opens to the agent's exports beside its own.
actor SecondNBDSocket {
    private let exports: NBDExportTable
    private let log: Logger
    private var server: NBDServer?

    init(exports: NBDExportTable, log: Logger) {
        self.exports = exports
        self.log = log
    }

    /// Listens at `address`, for `connectionsMax` clients, or for as many as the agent's own socket.
    func start(at address: NBDAddress, connectionsMax: Int?) throws {
        guard server == nil else { throw ControlError.generic("NBD server already running") }
        var limits = NBDLimits()
        if let connectionsMax { limits.connectionsMax = connectionsMax }
        let new = NBDServer(
            at: address, exports: exports, limits: limits,
            report: { [log] message in log.info("NBD: \(message)") })
        do throws(BlockError) { try new.start() } catch { throw ControlError(block: error) }
        server = new
        log.notice("NBD: listening at \(new.place) too")
    }

    /// Lets requests in flight finish, and cuts the clients of this socket off.
    func stop() async throws {
        guard let running = server else { throw ControlError.generic("NBD server not running") }
        server = nil
        await running.stop()
    }

    /// `stop`, if there is anything to stop.
    func stopIfRunning() async {
        let running = server
        server = nil
        await running?.stop()
    }
}
