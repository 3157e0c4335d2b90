import BlockCore
import CLinux
import Glibc

// The one seam between a connection and its socket: a transport with encryption would offer the
// same operations. The socket is blocking; what must not wait asks for that call by call.

/// A connected stream socket, closed with the last reference.
final class NBDSocket: Sendable {
    /// What an attempt to send came to.
    enum Sent: Equatable {
        case bytes(Int)
        case wouldBlock
        /// The client is gone, or the socket was cut.
        case broken
    }

    /// What `receiveSteadily` has found.
    enum Received: Equatable {
        case bytes(Int)
        /// The stream has ended.
        case ended
        /// Nothing has come in time.
        case late
    }

    /// How often `receiveSteadily` looks before it waits.
    private static let looksMax = 3
    /// A client fills about half of its socket's buffer meanwhile.
    private static let sleepNanoseconds: Int64 = 20_000

    private let descriptor: Int32

    /// Takes over `descriptor`.
    init(descriptor: Int32) {
        self.descriptor = descriptor
    }

    deinit { close(descriptor) }

    /// Waits for bytes and takes what is there, at most `target` full; zero at the end of the
    /// stream, however it came. With `isWhole` waits until `target` is full or the stream ends.
    func receive(into target: UnsafeMutableRawBufferPointer, isWhole: Bool = false) -> Int {
        let flags = isWhole ? Int32(MSG_WAITALL) : 0
        var done = 0
        while true {
            let got = recv(descriptor, target.baseAddress! + done, target.count - done, flags)
            if got < 0 && errno == EINTR { continue }
            if got <= 0 { return done }
            done += got
            if !isWhole || done == target.count { return done }
        }
    }

    /// Takes what is there of something long that the client is sending, at most `target` full. It
    /// looks again after a short sleep before it lets itself be woken: a sender that has to wake its
    /// reader for each piece is slowed down by that more than by all else.
    func receiveSteadily(
        into target: UnsafeMutableRawBufferPointer, until deadline: ContinuousClock.Instant
    ) -> Received {
        var looks = 0
        while true {
            let got = recv(descriptor, target.baseAddress!, target.count, Int32(MSG_DONTWAIT))
            if got > 0 { return .bytes(got) }
            guard got < 0, errno == EAGAIN || errno == EINTR else { return .ended }
            looks += 1
            if looks < Self.looksMax {
                clinux_sleep_precisely(Self.sleepNanoseconds)
            } else if !wait(for: POLLIN, until: deadline) {
                return .late
            }
        }
    }

    /// Sends what `vectors` name with one call, or as much of it as fits.
    func send(_ vectors: UnsafeMutableBufferPointer<iovec>, mayWait: Bool) -> Sent {
        var message = msghdr()
        message.msg_iov = vectors.baseAddress
        message.msg_iovlen = vectors.count
        let flags = MSG_NOSIGNAL | (mayWait ? 0 : MSG_DONTWAIT)
        while true {
            let sent = sendmsg(descriptor, &message, Int32(flags))
            if sent >= 0 { return .bytes(sent) }
            if errno == EINTR { continue }
            return errno == EAGAIN && !mayWait ? .wouldBlock : .broken
        }
    }

    /// Fills `target`; false if the stream ends or `deadline` passes before.
    func receive(
        into target: UnsafeMutableRawBufferPointer, until deadline: ContinuousClock.Instant
    ) -> Bool {
        var done = 0
        while done < target.count {
            guard wait(for: POLLIN, until: deadline) else { return false }
            let got = recv(
                descriptor, target.baseAddress! + done, target.count - done,
                Int32(MSG_DONTWAIT))
            if got < 0 && (errno == EINTR || errno == EAGAIN) { continue }
            guard got > 0 else { return false }
            done += got
        }
        return true
    }

    /// Sends all of `bytes`; false if the client is gone or `deadline` passes before.
    func send(_ bytes: [UInt8], until deadline: ContinuousClock.Instant) -> Bool {
        bytes.withUnsafeBytes { bytes in
            var done = 0
            while done < bytes.count {
                guard wait(for: POLLOUT, until: deadline) else { return false }
                let sent = Glibc.send(
                    descriptor, bytes.baseAddress! + done, bytes.count - done,
                    Int32(MSG_DONTWAIT | MSG_NOSIGNAL))
                if sent < 0 && (errno == EINTR || errno == EAGAIN) { continue }
                guard sent >= 0 else { return false }
                done += sent
            }
            return true
        }
    }

    /// The bytes sent that the client has not taken, counted with what holding them costs.
    var untakenBytes: Int { Int(clinux_untaken_bytes(descriptor)) }

    /// Lets nothing more arrive: a waiting `receive` ends, the client's sends fail.
    func shutdownReceiving() { _ = shutdown(descriptor, Int32(SHUT_RD)) }

    /// Ends both directions: whoever waits on the socket is woken, the client sees the end.
    func shutdownAll() { _ = shutdown(descriptor, Int32(SHUT_RDWR)) }

    /// Whether the other side has closed the socket, and not only ended what it sends.
    var isHungUp: Bool {
        var request = pollfd(fd: descriptor, events: 0, revents: 0)
        return poll(&request, 1, 0) > 0 && request.revents & Int16(POLLHUP | POLLERR) != 0
    }

    private func wait(for event: Int32, until deadline: ContinuousClock.Instant) -> Bool {
        while true {
            let left = ContinuousClock.now.duration(to: deadline)
            guard left > .zero else { return false }
            var request = pollfd(fd: descriptor, events: Int16(event), revents: 0)
            let milliseconds = left / .milliseconds(1)
            let ready = poll(&request, 1, Int32(min(milliseconds.rounded(.up), 60_000)))
            if ready > 0 { return true }
            if ready < 0 && errno != EINTR { return false }
        }
    }
}
