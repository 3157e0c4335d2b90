import Glibc

/// Why an operation on a node or a file failed: a kind that callers branch on, and the place.
package struct BlockError: Error, Sendable, Equatable {
    /// The kinds that callers treat differently; everything else about a failure is text.
    package enum Kind: String, Sendable {
        /// The medium failed.
        case io
        /// The medium, or the space allowed for this, is full.
        case noSpace
        /// What was read contradicts its format or its digest.
        case corrupt
        /// A format feature or operation that this version does not have.
        case unsupported
        /// The request reaches beyond the end of the node.
        case outOfRange
        /// Somebody else holds what this needs.
        case busy
        /// The node or file does not accept writes.
        case readOnly
        /// There is no such file, image or object.
        case notFound
        /// The caller's arguments make no sense.
        case invalid
        /// The operation was given up on request.
        case cancelled
        /// A deadline passed; whether the operation took effect is unknown.
        case timedOut
    }

    package var kind: Kind
    /// What was being done, as a verb phrase: "read", "open", "write refcount block".
    package var operation: String
    /// The node or file that it was done to.
    package var place: String
    /// The bytes concerned, where a range was.
    package var range: ByteRange?
    /// The system's error number, where a system call failed.
    package var errno: Int32?
    /// What is wrong and, where there is one, the remedy.
    package var detail: String?

    package init(
        _ kind: Kind, _ operation: String, on place: String, range: ByteRange? = nil,
        errno: Int32? = nil, detail: String? = nil
    ) {
        self.kind = kind
        self.operation = operation
        self.place = place
        self.range = range
        self.errno = errno
        self.detail = detail
    }

    /// The error of a system call that left `errno`.
    package static func system(
        _ operation: String, on place: String, errno: Int32, range: ByteRange? = nil
    ) -> BlockError {
        let kind: Kind =
            switch errno {
            case ENOSPC, EDQUOT, EFBIG: .noSpace
            case ENOENT, ENOTDIR: .notFound
            case EROFS, EACCES, EPERM: .readOnly
            case EAGAIN, EBUSY, ETXTBSY: .busy
            case EOPNOTSUPP, ENOSYS: .unsupported
            case EINVAL: .invalid
            default: .io
            }
        return BlockError(kind, operation, on: place, range: range, errno: errno)
    }
}

extension BlockError: CustomStringConvertible {
    package var description: String {
        var text = "\(place): cannot \(operation)"
        if let range { text += " (\(range.lengthBytes) bytes at \(range.offset))" }
        if let errno { text += ": \(String(cString: strerror(errno)))" }
        if let detail { text += ": \(detail)" }
        if errno == nil && detail == nil { text += ": \(kind.rawValue)" }
        return text
    }
}
