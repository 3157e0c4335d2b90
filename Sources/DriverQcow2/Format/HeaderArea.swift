import BlockCore

// The first cluster of an image: the fields, then extensions up to one of type 0, then the name of
// the backing file, which the fields find. An extension is added behind the last, where the name
// mostly is, in such a way that a crash between any two writes leaves a header that says what it
// said before:
//
//   1  the name is copied to where it does not lie in the way
//   2  the fields say that it is there
//   3  the content of the new extension, and a new end behind it
//   4  the type and length of the new extension, over the old end
//
// Each is durable before the next; 2 and 4 lie within a sector.
//
// A backing file gets another name likewise: the new one is written where neither an extension nor
// the old one lies, then the fields say so. A format that is another goes, in its old place, into
// the same write as the fields, which therefore must all lie in the first sector.

/// The part of the first cluster in which the extensions lie.
struct HeaderArea {
    private let file: any StorageFile
    private var bytes: [UInt8]
    /// Where the extension of type 0 is, and where the content of the bitmaps' is.
    private let endOffset: Int
    private let bitmapsOffset: Int?
    /// Where the content of the extension is that names the backing format, and how long that is.
    private let formatPlace: Range<Int>?

    private static let bitmapsBytes = 24

    init(file: any StorageFile, header: Qcow2Header) throws(BlockError) {
        self.file = file
        bytes = try file.readBytes(Int(header.clusterBytes), at: 0)
        var offset =
            header.version == 2
            ? Qcow2Layout.headerBytesV2
            : Int(Self.number(bytes, Qcow2Layout.Field.headerBytes, as: UInt32.self))
        var bitmaps: Int?
        var format: Range<Int>?
        while true {
            guard offset + 8 <= bytes.count else {
                throw Self.noRoom(file, "its extensions have no end")
            }
            let type: UInt32 = Self.number(bytes, offset)
            let count = Int(Self.number(bytes, offset + 4, as: UInt32.self))
            if type == Qcow2Layout.Extension.end { break }
            guard count <= bytes.count - offset - 8 else {
                throw Self.noRoom(file, "an extension of \(count) bytes is too long")
            }
            if type == Qcow2Layout.Extension.bitmaps, count == Self.bitmapsBytes {
                bitmaps = offset + 8
            }
            if type == Qcow2Layout.Extension.backingFormat {
                format = offset + 8..<offset + 8 + count
            }
            offset += 8 + (count + 7) / 8 * 8
        }
        endOffset = offset
        bitmapsOffset = bitmaps
        formatPlace = format
    }

    /// Says where the list of bitmaps is, durably. Its feature bit must be clear: whoever finds the
    /// extension half written must not believe it.
    func setBitmaps(_ list: Qcow2BitmapDirectory) throws(BlockError) {
        var content = [UInt8](repeating: 0, count: Self.bitmapsBytes)
        content.withUnsafeMutableBytes { content in
            content.storeBigEndian(list.count, at: 0)
            content.storeBigEndian(list.lengthBytes, at: 8)
            content.storeBigEndian(list.offset, at: 16)
        }
        if let bitmapsOffset { return try write(content, at: bitmapsOffset) }
        let newEnd = endOffset + 8 + content.count
        try moveName(behind: newEnd + 8)
        try write(content + [UInt8](repeating: 0, count: 8), at: endOffset + 8)
        var head = [UInt8](repeating: 0, count: 8)
        head.withUnsafeMutableBytes { head in
            head.storeBigEndian(Qcow2Layout.Extension.bitmaps, at: 0)
            head.storeBigEndian(UInt32(content.count), at: 4)
        }
        try write(head, at: endOffset)
    }

    /// Names another backing file, durably, or none.
    func setBacking(_ backing: Qcow2Backing?, by damage: Damage) throws(BlockError) {
        var fields = [UInt8](repeating: 0, count: 12)
        guard let backing else {
            // Offset and length of the name lie side by side: one write within a sector.
            return try damage.replace(at: UInt64(Qcow2Layout.Field.backingOffset), with: fields)
        }
        let name = Array(backing.name.utf8)
        guard !name.isEmpty, name.count <= Qcow2Layout.backingNameBytesMax else {
            throw BlockError(
                .invalid, "name the backing file", on: file.path,
                detail: "a name of \(name.count) bytes does not fit")
        }
        let offset = try placeForName(of: name.count)
        try write(name, at: offset)
        fields.withUnsafeMutableBytes { fields in
            fields.storeBigEndian(UInt64(offset), at: 0)
            fields.storeBigEndian(UInt32(name.count), at: 8)
        }
        let format = Array((backing.format ?? "").utf8)
        if let formatPlace, Array(bytes[formatPlace]) == format {
            return try damage.replace(at: UInt64(Qcow2Layout.Field.backingOffset), with: fields)
        }
        var sector = try file.readBytes(Self.sectorBytes, at: 0)
        guard let formatPlace, formatPlace.lowerBound + 8 <= sector.count, format.count <= 8,
            !format.isEmpty, formatPlace.count <= 8
        else { throw Self.noRoom(file, "the backing format has no place in its first sector") }
        let fieldsOffset = Qcow2Layout.Field.backingOffset
        sector.replaceSubrange(fieldsOffset..<fieldsOffset + fields.count, with: fields)
        sector.withUnsafeMutableBytes { sector in
            sector.storeBigEndian(UInt32(format.count), at: formatPlace.lowerBound - 4)
        }
        sector.replaceSubrange(
            formatPlace.lowerBound..<formatPlace.lowerBound + 8,
            with: format + [UInt8](repeating: 0, count: 8 - format.count))
        try damage.replace(at: 0, with: sector)
    }

    private static let sectorBytes = 512

    /// Where a name of `count` bytes lies in nothing's way.
    private func placeForName(of count: Int) throws(BlockError) -> Int {
        let offset: UInt64 = Self.number(bytes, Qcow2Layout.Field.backingOffset)
        let length = UInt64(Self.number(bytes, Qcow2Layout.Field.backingBytes, as: UInt32.self))
        let behind = endOffset + 8
        guard offset != 0, offset < UInt64(bytes.count) else { return behind }
        if behind + count <= Int(offset) || Int(offset + length) <= behind {
            guard behind + count <= bytes.count else { throw Self.noRoom(file, "it is full") }
            return behind
        }
        guard Int(offset + length) + count <= bytes.count else {
            throw Self.noRoom(file, "there is no room for the name of the backing file")
        }
        return Int(offset + length)
    }

    /// Steps 1 and 2, unless the name lies behind already.
    private func moveName(behind end: Int) throws(BlockError) {
        let offset: UInt64 = Self.number(bytes, Qcow2Layout.Field.backingOffset)
        let count = Int(Self.number(bytes, Qcow2Layout.Field.backingBytes, as: UInt32.self))
        guard offset != 0, count > 0 else {
            guard end <= bytes.count else { throw Self.noRoom(file, "it is full") }
            return
        }
        guard offset <= UInt64(bytes.count - count) else {
            throw Self.noRoom(file, "its backing file name lies outside")
        }
        if Int(offset) >= end { return }
        let target = max(end, Int(offset) + count)
        guard target + count <= bytes.count else { throw Self.noRoom(file, "it is full") }
        try write(Array(bytes[Int(offset)..<Int(offset) + count]), at: target)
        try file.writeNumbers(
            [UInt64(target)], at: UInt64(Qcow2Layout.Field.backingOffset), durably: true)
    }

    private func write(_ bytes: [UInt8], at offset: Int) throws(BlockError) {
        try bytes.withBytes { (bytes) throws(BlockError) in
            try file.writeDurably(at: UInt64(offset), from: bytes)
        }
    }

    private static func number<T: FixedWidthInteger>(
        _ bytes: [UInt8], _ offset: Int, as type: T.Type = T.self
    ) -> T {
        bytes.withUnsafeBytes { $0.bigEndian(at: offset, as: type) }
    }

    private static func noRoom(_ file: any StorageFile, _ detail: String) -> BlockError {
        BlockError(.unsupported, "extend the header", on: file.path, detail: detail)
    }
}
