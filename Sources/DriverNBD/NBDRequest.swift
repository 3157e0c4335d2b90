import BlockCore
import CNBD
import Glibc

/// What a request asks of the server.
enum NBDOperation: Sendable {
    case read(at: UInt64, into: BufferSlice)
    case write(at: UInt64, from: BufferSlice)
    case writeZeroes(ByteRange, mayUnmap: Bool)
    case trim(ByteRange)
    case flush
    case status(ByteRange)

    /// Whether it changes content, so that its outcome must be known.
    var isChange: Bool {
        switch self {
        case .write, .writeZeroes, .trim: true
        case .read, .flush, .status: false
        }
    }

    var name: String {
        switch self {
        case .read: "read"
        case .write: "write"
        case .writeZeroes: "write zeroes"
        case .trim: "discard"
        case .flush: "flush"
        case .status: "map"
        }
    }

    var range: ByteRange? {
        switch self {
        case .read(let offset, let slice), .write(let offset, let slice):
            ByteRange(offset: offset, lengthBytes: UInt64(slice.count))
        case .writeZeroes(let range, _), .trim(let range), .status(let range): range
        case .flush: nil
        }
    }
}

/// One request, from its submission to its completion, over as many connections as that takes.
///
/// libnbd's callbacks hold a reference until libnbd frees them, and the operation holds its buffer:
/// memory that libnbd may still touch outlives it, whoever has stopped waiting.
///
/// `@unchecked Sendable` is true because one thread has it at a time: the submitter up to
/// `submit`, then its connection's thread up to `finish`, then the submitter again.
final class NBDRequest: @unchecked Sendable {
    let operation: NBDOperation
    /// Resumed with nil for success.
    var continuation: UnsafeContinuation<BlockError?, Never>?

    /// How often it was handed to libnbd.
    var issueCount = 0
    /// What a flush covers: the writes that had been acknowledged when it was issued.
    var covered: UInt64 = 0
    /// Set by the callback: the errno, 0 for success.
    private(set) var status: Int32?
    /// What the server said of `base:allocation`, from the start of the range.
    private(set) var entries: [(lengthBytes: UInt64, flags: UInt32)] = []

    init(_ operation: NBDOperation) { self.operation = operation }

    /// Forgets an attempt whose outcome does not count.
    func reset() {
        status = nil
        entries = []
    }

    func finish(_ failure: BlockError?) {
        let continuation = continuation
        self.continuation = nil
        continuation?.resume(returning: failure)
    }

    /// A callback that records the completion. Each use must be handed to libnbd, which frees it.
    var completionCallback: nbd_completion_callback {
        nbd_completion_callback(
            callback: { context, error in
                let request = Unmanaged<NBDRequest>.fromOpaque(context!).takeUnretainedValue()
                request.status = error?.pointee ?? EIO
                return 1  // retire the command
            }, user_data: Unmanaged.passRetained(self).toOpaque(), free: Self.release)
    }

    /// A callback that records what is where.
    var extentCallback: nbd_extent_callback {
        nbd_extent_callback(
            callback: { context, name, _, entries, count, _ in
                let request = Unmanaged<NBDRequest>.fromOpaque(context!).takeUnretainedValue()
                guard let name, let entries, strcmp(name, NBDHandle.allocationContext) == 0 else {
                    return 0
                }
                for index in stride(from: 0, to: count - count % 2, by: 2) {
                    request.entries.append((UInt64(entries[index]), entries[index + 1]))
                }
                return 0
            }, user_data: Unmanaged.passRetained(self).toOpaque(), free: Self.release)
    }

    private static let release: @convention(c) (UnsafeMutableRawPointer?) -> Void = { context in
        Unmanaged<NBDRequest>.fromOpaque(context!).release()
    }
}
