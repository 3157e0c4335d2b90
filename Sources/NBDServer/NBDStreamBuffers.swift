import Glibc

// Both directions of a connection go through a buffer of its thread, so that many small requests
// cost one `recv` and their replies one `sendmsg`.

/// Bytes that were received and not taken yet.
struct NBDInputBuffer: ~Copyable {
    private let base: UnsafeMutableRawPointer
    private let capacityBytes: Int
    private var start = 0
    private var end = 0

    init(capacityBytes: Int) {
        base = .allocate(byteCount: capacityBytes, alignment: 4096)
        self.capacityBytes = capacityBytes
    }

    deinit { base.deallocate() }

    var count: Int { end - start }

    /// The bytes that are here; valid until something is received.
    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: base + start, count: count) }

    /// Takes the first `count` bytes off.
    mutating func consume(_ count: Int) {
        start += count
        if start == end {
            start = 0
            end = 0
        }
    }

    /// Waits for more bytes, and takes at most `limitBytes`; false at the end of the stream. There
    /// is always room, as long as the capacity is more than what the caller waits to see whole.
    mutating func receive(from socket: NBDSocket, limitBytes: Int) -> Bool {
        if start > 0 {
            memmove(base, base + start, count)
            end -= start
            start = 0
        }
        let room = min(limitBytes, capacityBytes - end)
        let got = socket.receive(into: .init(start: base + end, count: room))
        end += got
        return got > 0
    }
}

/// Replies that are encoded and not sent yet.
struct NBDOutputBuffer: ~Copyable {
    private let base: UnsafeMutableRawPointer
    private let capacityBytes: Int
    private(set) var count = 0

    init(capacityBytes: Int) {
        base = .allocate(byteCount: capacityBytes, alignment: 4096)
        self.capacityBytes = capacityBytes
    }

    deinit { base.deallocate() }

    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: base, count: count) }

    var roomBytes: Int { capacityBytes - count }

    /// Where the next bytes go: up to `roomBytes`, which count once `advance` is called.
    var end: UnsafeMutableRawPointer { base + count }

    mutating func advance(_ count: Int) { self.count += count }

    mutating func removeAll() { count = 0 }
}
