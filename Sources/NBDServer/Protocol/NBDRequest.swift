import BlockCore

/// The fixed header of a request; its payload, if it has one, follows it.
struct NBDRequest: Equatable {
    var flags: NBDCommandFlags
    /// The command as sent, which may be one that this server does not know.
    var type: UInt16
    /// The client's name for the request, returned in the reply.
    var cookie: UInt64
    var offset: UInt64
    /// How many bytes of the export are concerned, or of payload follow, or both.
    var lengthBytes: UInt64
    /// Whether `lengthBytes` of payload follow the header.
    var hasPayload: Bool

    /// A request as clients without extended headers mean it: only a write has a payload.
    init(
        _ command: NBDCommand, flags: NBDCommandFlags = [], cookie: UInt64, offset: UInt64,
        lengthBytes: UInt64
    ) {
        self.flags = flags
        self.type = command.rawValue
        self.cookie = cookie
        self.offset = offset
        self.lengthBytes = lengthBytes
        hasPayload = command == .write
    }

    /// Decodes the header at `bytes`, which has the length that `form` says. Nil if the client
    /// cannot be followed any further: the magic number is wrong, or it does not say truly where
    /// the next request begins.
    @inline(__always)
    init?(_ bytes: UnsafeRawPointer, _ form: NBDMessageForm) {
        let isExtended = form == .extended
        let magic = bytes.loadBigEndian(0, as: UInt32.self)
        guard magic == (isExtended ? NBDMagic.extendedRequest : NBDMagic.request) else {
            return nil
        }
        flags = NBDCommandFlags(rawValue: bytes.loadBigEndian(4, as: UInt16.self))
        type = bytes.loadBigEndian(6, as: UInt16.self)
        cookie = bytes.loadBigEndian(8, as: UInt64.self)
        offset = bytes.loadBigEndian(16, as: UInt64.self)
        let isWrite = type == NBDCommand.write.rawValue
        if isExtended {
            lengthBytes = bytes.loadBigEndian(24, as: UInt64.self)
            hasPayload = flags.contains(.payloadLength)
            guard hasPayload ? lengthBytes <= NBDSize.payloadBytesMax : !isWrite else {
                return nil
            }
        } else {
            lengthBytes = UInt64(bytes.loadBigEndian(24, as: UInt32.self))
            hasPayload = isWrite
        }
    }

    /// The bytes concerned. Only a request that was checked has an `end` that does not overflow.
    var range: ByteRange { ByteRange(offset: offset, lengthBytes: lengthBytes) }
}

/// The payload of a BLOCK_STATUS: the range's length, and which contexts are wanted.
struct NBDStatusPayload: Equatable {
    var lengthBytes: UInt64
    var contextIDs: [UInt32]

    /// The length of a payload that names `count` contexts.
    static func bytes(contextCount count: Int) -> Int { 8 + 4 * count }

    /// Decodes a payload; nil unless it is exactly one, naming at least one context, none twice.
    init?(_ payload: UnsafeRawBufferPointer) {
        var reader = ByteReader(payload)
        guard let length = reader.number(UInt64.self) else { return nil }
        lengthBytes = length
        contextIDs = []
        while !reader.isAtEnd {
            guard let id = reader.number(UInt32.self) else { return nil }
            contextIDs.append(id)
        }
        guard !contextIDs.isEmpty, Set(contextIDs).count == contextIDs.count else { return nil }
    }
}
