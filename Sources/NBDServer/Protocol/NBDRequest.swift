import BlockCore

/// The fixed header of a request; a write's payload follows it.
struct NBDRequest: Equatable {
    var flags: NBDCommandFlags
    /// The command as sent, which may be one that this server does not know.
    var type: UInt16
    /// The client's name for the request, returned in the reply.
    var cookie: UInt64
    var offset: UInt64
    var lengthBytes: UInt32

    init(
        _ command: NBDCommand, flags: NBDCommandFlags = [], cookie: UInt64, offset: UInt64,
        lengthBytes: UInt32
    ) {
        self.flags = flags
        self.type = command.rawValue
        self.cookie = cookie
        self.offset = offset
        self.lengthBytes = lengthBytes
    }

    /// Decodes the `NBDSize.requestBytes` at `bytes`; nil if the magic number is wrong.
    @inline(__always)
    init?(_ bytes: UnsafeRawPointer) {
        guard bytes.loadBigEndian(0, as: UInt32.self) == NBDMagic.request else { return nil }
        flags = NBDCommandFlags(rawValue: bytes.loadBigEndian(4, as: UInt16.self))
        type = bytes.loadBigEndian(6, as: UInt16.self)
        cookie = bytes.loadBigEndian(8, as: UInt64.self)
        offset = bytes.loadBigEndian(16, as: UInt64.self)
        lengthBytes = bytes.loadBigEndian(24, as: UInt32.self)
    }

    /// The bytes concerned. Only a request that was checked has an `end` that does not overflow.
    var range: ByteRange { ByteRange(offset: offset, lengthBytes: UInt64(lengthBytes)) }

    /// Whether a payload follows the header.
    var hasPayload: Bool { type == NBDCommand.write.rawValue }
}

/// Why a request is refused before anything is done.
struct NBDRefusal: Equatable {
    var code: NBDErrorCode
    var reason: String
}

/// What requests must keep to on one connection, as told to the client in the handshake.
struct NBDRequestRules {
    var sizeBytes: UInt64
    var isReadOnly: Bool
    var isStructured: Bool
    var hasContexts: Bool

    /// What is wrong with `request`, a `command`; nil if it may be carried out.
    func refusal(of request: NBDRequest, _ command: NBDCommand) -> NBDRefusal? {
        if !request.flags.isSubset(of: allowedFlags(command)) {
            return NBDRefusal(code: .invalid, reason: "a flag that was not offered")
        }
        let isChange = command == .write || command == .writeZeroes || command == .trim
        if isChange && isReadOnly {
            return NBDRefusal(code: .notPermitted, reason: "the export is read-only")
        }
        if command == .flush || command == .disconnect { return nil }

        let (end, overflow) = request.offset.addingReportingOverflow(UInt64(request.lengthBytes))
        if overflow || end > sizeBytes {
            let isGrowth = command == .write || command == .writeZeroes
            return NBDRefusal(
                code: isGrowth ? .noSpace : .invalid,
                reason: "the end of the export is at \(sizeBytes)")
        }
        let carriesData = command == .read || command == .write || command == .cache
        if carriesData && request.lengthBytes > NBDSize.payloadBytesMax {
            return NBDRefusal(
                code: .invalid, reason: "at most \(NBDSize.payloadBytesMax) bytes a request")
        }
        if command == .blockStatus {
            if !hasContexts {
                return NBDRefusal(code: .invalid, reason: "no metadata context was negotiated")
            }
            if request.lengthBytes == 0 {
                return NBDRefusal(code: .invalid, reason: "the status of no bytes")
            }
        }
        return nil
    }

    // FUA is allowed everywhere and means nothing to a command that writes nothing.
    private func allowedFlags(_ command: NBDCommand) -> NBDCommandFlags {
        switch command {
        case .read: isStructured ? [.fua, .df] : [.fua]
        case .writeZeroes: [.fua, .noHole]
        case .blockStatus: [.fua, .reqOne]
        case .write, .trim, .flush, .cache: [.fua]
        case .disconnect: NBDCommandFlags(rawValue: .max)
        }
    }
}
