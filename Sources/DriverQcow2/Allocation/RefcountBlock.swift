/// The refcounts in one refcount block, of any width that the format knows.
struct RefcountBlock {
    private(set) var bytes: [UInt8]
    /// The width of a refcount is two to this power, in bits.
    let order: Int

    init(bytes: [UInt8], order: Int) {
        self.bytes = bytes
        self.order = order
    }

    var count: Int { (bytes.count * 8) >> order }

    subscript(index: Int) -> UInt64 {
        get {
            if order == 4 { return UInt64(bytes[index * 2]) << 8 | UInt64(bytes[index * 2 + 1]) }
            if order < 3 {
                let bit = index << order
                let mask = (UInt8(1) << UInt8(1 << order)) - 1
                return UInt64(bytes[bit / 8] >> UInt8(bit % 8) & mask)
            }
            let width = 1 << (order - 3)
            return bytes[index * width..<(index + 1) * width].reduce(0) { $0 << 8 | UInt64($1) }
        }
        set {
            if order < 3 {
                let bit = index << order
                let mask = ((UInt8(1) << UInt8(1 << order)) - 1) << UInt8(bit % 8)
                bytes[bit / 8] =
                    bytes[bit / 8] & ~mask | UInt8(truncatingIfNeeded: newValue) << UInt8(bit % 8)
                return
            }
            let width = 1 << (order - 3)
            for place in 0..<width {
                bytes[index * width + place] =
                    UInt8(truncatingIfNeeded: newValue >> UInt64(8 * (width - 1 - place)))
            }
        }
    }

    /// The bytes of the block that hold the refcounts `indices`.
    func byteRange(of indices: Range<Int>) -> Range<Int> {
        (indices.lowerBound << order) / 8..<((indices.upperBound << order) + 7) / 8
    }
}
