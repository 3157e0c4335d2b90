// An option of the handshake is a magic number, the option, a length, and that many bytes; each of
// the server's answers repeats the option, with a type and bytes of its own.

/// The fixed header of a client's option.
struct NBDOptionHeader: Equatable {
    /// The option as sent, which may be one that this server does not know.
    var option: UInt32
    var payloadBytes: UInt32

    /// Decodes an option's header; nil if it is too short or the magic number is wrong.
    init?(_ bytes: UnsafeRawBufferPointer) {
        var reader = ByteReader(bytes)
        guard reader.number(UInt64.self) == NBDMagic.option,
            let option = reader.number(UInt32.self),
            let payloadBytes = reader.number(UInt32.self)
        else { return nil }
        self.option = option
        self.payloadBytes = payloadBytes
    }
}

/// The payload of INFO and GO: an export, and what the client would like to know of it.
struct NBDInfoQuery: Equatable {
    var exportName: String
    /// The kinds of information asked for, each once, however often: what is sent back must not be
    /// many times what was sent. Unknown ones are left out.
    var infos: [NBDInfo]

    /// Decodes a payload; nil unless it is exactly one well-formed query.
    init?(_ payload: UnsafeRawBufferPointer) {
        var reader = ByteReader(payload)
        guard let name = reader.string(limitBytes: NBDSize.stringBytesMax),
            let count = reader.number(UInt16.self)
        else { return nil }
        exportName = name
        infos = []
        for _ in 0..<count {
            guard let number = reader.number(UInt16.self) else { return nil }
            if let info = NBDInfo(rawValue: number), !infos.contains(info) { infos.append(info) }
        }
        guard reader.isAtEnd else { return nil }
    }
}

/// The payload of LIST_META_CONTEXT and SET_META_CONTEXT: an export and queries for contexts.
struct NBDContextQuery: Equatable {
    var exportName: String
    var queries: [String]

    /// Decodes a payload; nil unless it is exactly one well-formed query.
    init?(_ payload: UnsafeRawBufferPointer) {
        var reader = ByteReader(payload)
        guard let name = reader.string(limitBytes: NBDSize.stringBytesMax),
            let count = reader.number(UInt32.self)
        else { return nil }
        exportName = name
        queries = []
        for _ in 0..<count {
            guard let query = reader.string(limitBytes: NBDSize.stringBytesMax) else { return nil }
            queries.append(query)
        }
        guard reader.isAtEnd else { return nil }
    }
}

/// Encodes the server's side of the handshake.
enum NBDOptionReply {
    /// What the server says first.
    static func greeting() -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.appendBigEndian(NBDMagic.greeting)
        bytes.appendBigEndian(NBDMagic.option)
        bytes.appendBigEndian(
            ([.fixedNewstyle, .noZeroes] as NBDHandshakeFlags).rawValue)
        return bytes
    }

    /// One answer to `option`.
    static func message(
        to option: UInt32, _ type: NBDOptionReplyType, _ payload: [UInt8] = []
    ) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.appendBigEndian(NBDMagic.optionReply)
        bytes.appendBigEndian(option)
        bytes.appendBigEndian(type.rawValue)
        bytes.appendBigEndian(UInt32(payload.count))
        return bytes + payload
    }

    /// The payload of an answer that names an export to LIST.
    static func server(name: String, description: String) -> [UInt8] {
        var payload: [UInt8] = []
        payload.appendBigEndian(UInt32(name.utf8.count))
        payload += name.utf8
        payload += description.utf8
        return payload
    }

    /// The payload of an answer that tells an export's size and abilities.
    static func exportInfo(sizeBytes: UInt64, flags: NBDTransmissionFlags) -> [UInt8] {
        var payload: [UInt8] = []
        payload.appendBigEndian(NBDInfo.export.rawValue)
        payload.appendBigEndian(sizeBytes)
        payload.appendBigEndian(flags.rawValue)
        return payload
    }

    /// The payload of an answer that carries text: the export's name or description.
    static func textInfo(_ info: NBDInfo, _ text: String) -> [UInt8] {
        var payload: [UInt8] = []
        payload.appendBigEndian(info.rawValue)
        payload += text.utf8
        return payload
    }

    /// The payload of an answer that tells which request sizes are possible and which are cheap.
    static func blockSizeInfo(preferredBytes: UInt32) -> [UInt8] {
        var payload: [UInt8] = []
        payload.appendBigEndian(NBDInfo.blockSize.rawValue)
        payload.appendBigEndian(UInt32(1))
        payload.appendBigEndian(preferredBytes)
        payload.appendBigEndian(UInt32(NBDSize.payloadBytesMax))
        return payload
    }

    /// The payload of an answer that names a metadata context.
    static func metaContext(id: UInt32, name: String) -> [UInt8] {
        var payload: [UInt8] = []
        payload.appendBigEndian(id)
        payload += name.utf8
        return payload
    }

    /// What EXPORT_NAME is answered with: no header, and 124 zeroes unless both sides spare them.
    static func exportNameAnswer(
        sizeBytes: UInt64, flags: NBDTransmissionFlags, withZeroes: Bool
    ) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.appendBigEndian(sizeBytes)
        bytes.appendBigEndian(flags.rawValue)
        if withZeroes { bytes += [UInt8](repeating: 0, count: 124) }
        return bytes
    }
}
