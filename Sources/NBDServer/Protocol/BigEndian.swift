// NBD's numbers are big-endian and of no particular alignment.

extension UnsafeRawPointer {
    /// The number that lies `offset` bytes in, in network byte order.
    @inline(__always)
    func loadBigEndian<T: FixedWidthInteger & BitwiseCopyable>(
        _ offset: Int, as type: T.Type
    ) -> T {
        T(bigEndian: loadUnaligned(fromByteOffset: offset, as: type))
    }
}

extension UnsafeMutableRawPointer {
    /// Puts `number` `offset` bytes in, in network byte order.
    @inline(__always)
    func storeBigEndian<T: FixedWidthInteger & BitwiseCopyable>(_ number: T, _ offset: Int) {
        storeBytes(of: number.bigEndian, toByteOffset: offset, as: T.self)
    }
}

extension [UInt8] {
    /// Appends `number` in network byte order.
    mutating func appendBigEndian<T: FixedWidthInteger & BitwiseCopyable>(_ number: T) {
        Swift.withUnsafeBytes(of: number.bigEndian) { append(contentsOf: $0) }
    }
}

/// Takes numbers and strings off the front of untrusted bytes; every answer is nil once they end.
///
/// The bytes must stay valid as long as the reader is used.
struct ByteReader {
    private let bytes: UnsafeRawBufferPointer
    private var position = 0

    init(_ bytes: UnsafeRawBufferPointer) {
        self.bytes = bytes
    }

    var isAtEnd: Bool { position == bytes.count }

    /// The next number, in network byte order.
    mutating func number<T: FixedWidthInteger & BitwiseCopyable>(_ type: T.Type) -> T? {
        let size = MemoryLayout<T>.size
        guard bytes.count - position >= size, let base = bytes.baseAddress else { return nil }
        defer { position += size }
        return base.loadBigEndian(position, as: type)
    }

    /// The next string, which is preceded by its 32-bit length; nil also if it is longer than
    /// `limitBytes` or not UTF-8.
    mutating func string(limitBytes: Int) -> String? {
        guard let length = number(UInt32.self), length <= limitBytes,
            bytes.count - position >= Int(length)
        else { return nil }
        defer { position += Int(length) }
        return String(validating: bytes[position..<position + Int(length)], as: UTF8.self)
    }
}
