import CNBD
import Foundation
import TestSupport

/// An NBD connection of a guest. A request waits for its answer.
///
/// `@unchecked Sendable` because whoever sends a request on it waits for the answer before the next.
final class GuestConnection: @unchecked Sendable {
    /// What a request came to, if not to what was asked for.
    struct Failure: Error, CustomStringConvertible {
        let description: String
        let errno: Int32
    }

    private let handle: OpaquePointer

    /// With `bitmaps`, their dirt can be asked for.
    init(socket: String, export: String, bitmaps: [String] = []) throws {
        guard let handle = nbd_create() else { throw Self.failure("create a handle") }
        self.handle = handle
        try check(nbd_set_export_name(handle, export), "choose the export")
        for bitmap in bitmaps {
            try check(
                nbd_add_meta_context(handle, "qemu:dirty-bitmap:\(bitmap)"), "ask for a bitmap")
        }
        try check(nbd_connect_unix(handle, socket), "connect")
    }

    deinit { nbd_close(handle) }

    var sizeBytes: Int { Int(nbd_get_size(handle)) }

    func write(_ bytes: [UInt8], at offset: Int) throws {
        try check(nbd_pwrite(handle, bytes, bytes.count, UInt64(offset), 0), "write")
    }

    func zero(_ range: Range<Int>, isHole: Bool) throws {
        try check(
            nbd_zero(
                handle, UInt64(range.count), UInt64(range.lowerBound),
                isHole ? 0 : UInt32(LIBNBD_CMD_FLAG_NO_HOLE)), "zero")
    }

    func trim(_ range: Range<Int>) throws {
        try check(nbd_trim(handle, UInt64(range.count), UInt64(range.lowerBound), 0), "trim")
    }

    func flush() throws { try check(nbd_flush(handle, 0), "flush") }

    func read(_ range: Range<Int>) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: range.count)
        let pieceBytes = 16 << 20
        try bytes.withUnsafeMutableBytes { bytes in
            for start in stride(from: 0, to: range.count, by: pieceBytes) {
                let count = min(pieceBytes, range.count - start)
                try check(
                    nbd_pread(
                        handle, bytes.baseAddress! + start, count,
                        UInt64(range.lowerBound + start), 0), "read")
            }
        }
        return bytes
    }

    /// The dirty ranges of one of the bitmaps that the connection was made with.
    func dirtyRanges(of bitmap: String) throws -> [Range<Int>] {
        let answer = Answer(context: "qemu:dirty-bitmap:\(bitmap)")
        let size = sizeBytes
        while answer.end < size {
            let before = answer.end
            let callback = nbd_extent_callback(
                callback: { userData, context, offset, entries, count, _ in
                    let answer = Unmanaged<Answer>.fromOpaque(userData!).takeUnretainedValue()
                    guard String(cString: context!) == answer.context else { return 0 }
                    var offset = Int(offset)
                    for index in stride(from: 0, to: Int(count), by: 2) {
                        let next = offset + Int(entries![index])
                        if entries![index + 1] & 1 != 0 { answer.ranges.append(offset..<next) }
                        offset = next
                    }
                    answer.end = offset
                    return 0
                }, user_data: Unmanaged.passUnretained(answer).toOpaque(), free: nil)
            try check(
                nbd_block_status(
                    handle, UInt64(size - before), UInt64(before), callback, 0), "map a bitmap")
            guard answer.end > before else {
                throw Failure(description: "bitmap \(bitmap) has no answer", errno: 0)
            }
        }
        return answer.ranges
    }

    private final class Answer {
        let context: String
        var ranges: [Range<Int>] = []
        var end = 0

        init(context: String) { self.context = context }
    }

    private func check(_ result: Int32, _ operation: String) throws {
        if result < 0 { throw Self.failure(operation) }
    }

    private static func failure(_ operation: String) -> Failure {
        let text = nbd_get_error().map { String(cString: $0) } ?? "unknown"
        return Failure(description: "\(operation): \(text)", errno: nbd_get_errno())
    }
}
