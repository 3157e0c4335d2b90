import BlockCore

/// What the extensions of a header say, as far as this driver understands them. They lie between
/// the header's fields and the backing file name; others are left where they are.
struct HeaderExtensions {
    /// A name for a feature bit, for those who do not know it.
    struct FeatureName: Equatable {
        /// 0 incompatible, 1 compatible, 2 autoclear.
        let kind: UInt8
        let bit: UInt8
        let name: String
    }

    private(set) var backingFormat: String?
    private(set) var dataFileName: String?
    private(set) var bitmaps: Qcow2BitmapDirectory?
    private(set) var featureNames: [FeatureName] = []

    private static let featureNameBytes = 48

    /// Decodes the extensions in `place` of `bytes`; the error is what is wrong with them.
    init(_ bytes: [UInt8], in place: Range<Int>) throws(Invalid) {
        var offset = place.lowerBound
        while offset + 8 <= place.upperBound {
            let type: UInt32 = Self.number(bytes, offset)
            let count = Int(Self.number(bytes, offset + 4, as: UInt32.self))
            if type == Qcow2Layout.Extension.end { return }
            guard count <= place.upperBound - offset - 8 else {
                throw Invalid(detail: "a header extension of \(count) bytes is too long")
            }
            try read(type, Array(bytes[offset + 8..<offset + 8 + count]))
            offset += 8 + (count + 7) / 8 * 8
        }
    }

    /// Why extensions cannot be decoded.
    struct Invalid: Error {
        let detail: String
    }

    private mutating func read(_ type: UInt32, _ content: [UInt8]) throws(Invalid) {
        switch type {
        case Qcow2Layout.Extension.backingFormat:
            backingFormat = String(decoding: content, as: UTF8.self)
        case Qcow2Layout.Extension.dataFile:
            dataFileName = String(decoding: content, as: UTF8.self)
        case Qcow2Layout.Extension.bitmaps:
            guard content.count == 24 else {
                throw Invalid(detail: "a bitmaps extension of \(content.count) bytes")
            }
            bitmaps = Qcow2BitmapDirectory(
                count: Self.number(content, 0), lengthBytes: Self.number(content, 8),
                offset: Self.number(content, 16))
        case Qcow2Layout.Extension.featureNames:
            for start in stride(
                from: 0, through: content.count - Self.featureNameBytes, by: Self.featureNameBytes)
            {
                let name = content[start + 2..<start + Self.featureNameBytes].prefix { $0 != 0 }
                featureNames.append(
                    FeatureName(
                        kind: content[start], bit: content[start + 1],
                        name: String(decoding: name, as: UTF8.self)))
            }
        default: break
        }
    }

    /// The incompatible features that `bits` has set, by name where the image gives one.
    func names(ofIncompatible bits: UInt64) -> String {
        (0..<64 as Range<UInt8>).filter { bits >> UInt64($0) & 1 == 1 }.map { bit in
            let name = featureNames.first { $0.kind == 0 && $0.bit == bit }?.name
            return name.map { "\($0) (bit \(bit))" } ?? "bit \(bit), which has no name"
        }.joined(separator: ", ")
    }

    private static func number<T: FixedWidthInteger>(
        _ bytes: [UInt8], _ offset: Int, as type: T.Type = T.self
    ) -> T {
        bytes.withUnsafeBytes { $0.bigEndian(at: offset, as: type) }
    }
}
