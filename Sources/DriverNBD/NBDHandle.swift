import BlockCore
import CNBD
import Glibc

/// What a server offers.
struct NBDExportFacts: Equatable, Sendable {
    var sizeBytes: UInt64
    var isReadOnly: Bool
    var canFlush: Bool
    var canTrim: Bool
    var canZero: Bool
    var canMultiConnect: Bool
    var knowsAllocation: Bool
    /// What offsets and lengths must be multiples of; a power of two.
    var blockBytes: UInt64
    /// The largest read or write.
    var requestBytesMax: UInt64
}

/// One connection of libnbd. Its owner is one thread, and every call is that thread's: so libnbd
/// calls back on it too, from inside `notify`.
final class NBDHandle {
    static let allocationContext = "base:allocation"

    private let handle: OpaquePointer
    private let uri: String

    /// Connects; blocks for at most `limit`.
    init(uri: String, limit: Duration) throws(BlockError) {
        guard let handle = nbd_create() else {
            throw BlockError(.io, "make a connection", on: uri, detail: Self.lastError)
        }
        self.handle = handle
        self.uri = uri
        _ = nbd_set_uri_allow_transports(
            handle, UInt32(LIBNBD_ALLOW_TRANSPORT_TCP | LIBNBD_ALLOW_TRANSPORT_UNIX))
        _ = nbd_set_uri_allow_tls(handle, Int32(LIBNBD_TLS_DISABLE))
        _ = nbd_add_meta_context(handle, Self.allocationContext)
        guard nbd_aio_connect_uri(handle, uri) == 0 else { throw Self.connectFailure(uri) }
        let end = ContinuousClock.now + limit
        while nbd_aio_is_ready(handle) != 1 {
            guard nbd_aio_is_dead(handle) != 1, nbd_aio_is_closed(handle) != 1 else {
                throw Self.connectFailure(uri)
            }
            let rest = end - ContinuousClock.now
            guard rest > .zero else {
                throw BlockError(
                    .timedOut, "connect", on: uri, detail: "the server did not answer in \(limit)")
            }
            guard Self.poll(handle, orEvent: -1, within: rest) else {
                throw Self.connectFailure(uri)
            }
        }
    }

    /// Frees libnbd's memory; commands in flight are given up, their callbacks freed.
    deinit { nbd_close(handle) }

    /// What the server said of the export.
    func facts() throws(BlockError) -> NBDExportFacts {
        let size = nbd_get_size(handle)
        guard size >= 0 else {
            throw BlockError(.io, "ask the size", on: uri, detail: Self.lastError)
        }
        let smallest = nbd_get_block_size(handle, Int32(LIBNBD_SIZE_MINIMUM))
        let largest = nbd_get_block_size(handle, Int32(LIBNBD_SIZE_MAXIMUM))
        return NBDExportFacts(
            sizeBytes: UInt64(size), isReadOnly: nbd_is_read_only(handle) == 1,
            canFlush: nbd_can_flush(handle) == 1, canTrim: nbd_can_trim(handle) == 1,
            canZero: nbd_can_zero(handle) == 1, canMultiConnect: nbd_can_multi_conn(handle) == 1,
            knowsAllocation: nbd_can_meta_context(handle, Self.allocationContext) == 1,
            blockBytes: smallest > 0 ? UInt64(smallest) : 1,
            requestBytesMax: min(largest > 0 ? UInt64(largest) : 32 << 20, 32 << 20))
    }

    /// Hands a request to libnbd. Returns the errno if it refuses.
    func issue(_ request: NBDRequest) -> Int32? {
        let cookie =
            switch request.operation {
            case .read(let offset, let slice):
                nbd_aio_pread(
                    handle, slice.bytes.baseAddress!, slice.count, offset,
                    request.completionCallback, 0)
            case .write(let offset, let slice):
                nbd_aio_pwrite(
                    handle, slice.bytes.baseAddress!, slice.count, offset,
                    request.completionCallback, 0)
            case .writeZeroes(let range, let mayUnmap):
                nbd_aio_zero(
                    handle, range.lengthBytes, range.offset, request.completionCallback,
                    mayUnmap ? 0 : UInt32(LIBNBD_CMD_FLAG_NO_HOLE))
            case .trim(let range):
                nbd_aio_trim(
                    handle, range.lengthBytes, range.offset, request.completionCallback, 0)
            case .flush:
                nbd_aio_flush(handle, request.completionCallback, 0)
            case .status(let range):
                nbd_aio_block_status(
                    handle, range.lengthBytes, range.offset, request.extentCallback,
                    request.completionCallback, 0)
            }
        guard cookie < 0 else { return nil }
        let number = nbd_get_errno()
        return number == 0 ? EIO : number
    }

    /// Whether the connection is of no use any more.
    var isLost: Bool { nbd_aio_is_dead(handle) == 1 || nbd_aio_is_closed(handle) == 1 }

    /// Waits for the server or for `event`, then lets libnbd do what it can. Blocks. False if the
    /// connection broke.
    func wait(orEvent event: Int32, within limit: Duration) -> Bool {
        Self.poll(handle, orEvent: event, within: limit)
    }

    /// Tells the server that we leave, and gives it a moment to close.
    func disconnect() {
        guard nbd_aio_disconnect(handle, 0) == 0 else { return }
        let end = ContinuousClock.now + .seconds(1)
        while !isLost, ContinuousClock.now < end {
            guard Self.poll(handle, orEvent: -1, within: .milliseconds(100)) else { return }
        }
    }

    /// What libnbd says of the last failure on this thread.
    static var lastError: String {
        nbd_get_error().map { String(cString: $0) } ?? "unknown failure of libnbd"
    }

    private static func connectFailure(_ uri: String) -> BlockError {
        let number = nbd_get_errno()
        let kind: BlockError.Kind = number == ENOENT || number == ECONNREFUSED ? .notFound : .io
        return BlockError(kind, "connect", on: uri, detail: lastError)
    }

    private static func poll(
        _ handle: OpaquePointer, orEvent event: Int32, within limit: Duration
    ) -> Bool {
        let direction = Int32(nbd_aio_get_direction(handle))
        var wanted: Int32 = 0
        if direction & Int32(LIBNBD_AIO_DIRECTION_READ) != 0 { wanted |= POLLIN }
        if direction & Int32(LIBNBD_AIO_DIRECTION_WRITE) != 0 { wanted |= POLLOUT }
        var descriptors = [
            pollfd(fd: nbd_aio_get_fd(handle), events: Int16(wanted), revents: 0),
            pollfd(fd: event, events: Int16(POLLIN), revents: 0),
        ]
        let (seconds, attoseconds) = limit.components
        let milliseconds = min(seconds * 1000 + attoseconds / 1_000_000_000_000_000 + 1, 3_600_000)
        guard Glibc.poll(&descriptors, 2, Int32(max(milliseconds, 0))) >= 0 else {
            return errno == EINTR
        }
        let happened = Int32(descriptors[0].revents)
        // One notification at a time: the first may change what libnbd waits for.
        if happened & (POLLIN | POLLHUP | POLLERR) != 0, wanted & POLLIN != 0 {
            return nbd_aio_notify_read(handle) == 0
        }
        if happened & (POLLOUT | POLLHUP | POLLERR) != 0, wanted & POLLOUT != 0 {
            return nbd_aio_notify_write(handle) == 0
        }
        return happened & (POLLHUP | POLLERR | POLLNVAL) == 0
    }
}
