import BlockCore

/// Why a request failed, in the protocol's terms.
struct NBDFailure: Error, Equatable {
    var code: NBDErrorCode
    var reason: String
    /// Where in the request's range it failed, if that is known.
    var offset: UInt64?

    init(_ code: NBDErrorCode, _ reason: String, at offset: UInt64? = nil) {
        self.code = code
        self.reason = reason
        self.offset = offset
    }

    /// A failure of the device, which names places in nodes, not in the export.
    init(_ error: BlockError, at offset: UInt64? = nil) {
        self.init(NBDErrorCode(error.kind), error.description, at: offset)
    }
}

/// What requests must keep to on one connection, as told to the client in the handshake.
struct NBDRequestRules {
    var sizeBytes: UInt64
    var isReadOnly: Bool
    var form: NBDMessageForm
    var hasContexts: Bool

    /// What is wrong with `request`, a `command`; nil if it may be carried out.
    func refusal(of request: NBDRequest, _ command: NBDCommand) -> NBDFailure? {
        if !request.flags.isSubset(of: allowedFlags(command)) {
            return NBDFailure(.invalid, "a flag that was not offered")
        }
        let isChange = command == .write || command == .writeZeroes || command == .trim
        if isChange && isReadOnly {
            return NBDFailure(.notPermitted, "the export is read-only")
        }
        if command == .flush || command == .disconnect { return nil }

        let (end, overflow) = request.offset.addingReportingOverflow(request.lengthBytes)
        if overflow || end > sizeBytes {
            let isGrowth = command == .write || command == .writeZeroes
            return NBDFailure(
                isGrowth ? .noSpace : .invalid, "the end of the export is at \(sizeBytes)",
                at: request.offset < sizeBytes ? sizeBytes : nil)
        }
        let carriesData = command == .read || command == .write
        if carriesData && request.lengthBytes > NBDSize.payloadBytesMax {
            // Only who can be told to try less has the other error.
            let isTooLarge = command == .read && form.hasChunks
            return NBDFailure(
                isTooLarge ? .overflow : .invalid,
                "at most \(NBDSize.payloadBytesMax) bytes a request")
        }
        if command == .blockStatus {
            if !hasContexts {
                return NBDFailure(.invalid, "no metadata context was negotiated")
            }
            if request.lengthBytes == 0 {
                return NBDFailure(.invalid, "the status of no bytes")
            }
        }
        return nil
    }

    // FUA is allowed everywhere and means nothing to a command that writes nothing.
    private func allowedFlags(_ command: NBDCommand) -> NBDCommandFlags {
        let payload: NBDCommandFlags = form == .extended ? .payloadLength : []
        switch command {
        case .read: return form.hasChunks ? [.fua, .df] : [.fua]
        case .write: return payload.union(.fua)
        case .writeZeroes: return [.fua, .noHole, .fastZero]
        case .blockStatus: return payload.union([.fua, .reqOne])
        case .trim, .flush, .cache: return [.fua]
        case .disconnect: return NBDCommandFlags(rawValue: .max)
        }
    }
}
