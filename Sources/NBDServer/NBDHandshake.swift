import BlockCore

// The handshake as a state machine without I/O: it says how many bytes it wants next, takes them,
// and answers with what to send and how to go on.
//
//     clientFlags ─► option header ─► its payload ─► answer ─┐
//                        ▲   │ too big: skip it, answer      │
//                        └───┴───────────────────────────────┤
//                     GO or EXPORT_NAME of a known export ───┴─► transmission
//
// An option that is unknown, or known and malformed, is answered with an error and its payload is
// taken off the stream whole, so that the next option is found where it begins.

/// What a client and the server agreed on.
struct NBDAgreement {
    var entry: NBDExportTable.Entry
    var rules: NBDRequestRules
    /// The contexts in the order of their ids, which are the index plus one.
    var contexts: [NBDMetaContext]
}

/// The server's side of the handshake with one client.
struct NBDHandshake {
    /// How it goes on after a step.
    enum Outcome {
        case more
        /// The connection ends; with a reason if the client broke the protocol.
        case close(String?)
        case transmit(NBDAgreement)
    }

    private enum Expected {
        case clientFlags
        case optionHeader
        case payload(NBDOptionHeader)
        case skip(lengthBytes: Int)
    }

    /// Longer options are refused; up to `skippedBytesMax` the client may go on after that.
    static let payloadBytesMax = 64 << 10
    static let skippedBytesMax = 1 << 20

    private let table: NBDExportTable
    private let optionsMax: Int
    private let admit: () -> Bool
    private var optionCount = 0
    private var expected = Expected.clientFlags
    private var sendsZeroes = true
    private var form = NBDMessageForm.simple
    private var contexts: [NBDMetaContext] = []
    private var contextsEntry: NBDExportTable.Entry?

    /// `admit` is asked once a client has chosen an export; if it says no, the client is told that
    /// there are too many.
    init(
        _ table: NBDExportTable, optionsMax: Int = NBDLimits().optionsMax,
        admit: @escaping () -> Bool = { true }
    ) {
        self.table = table
        self.optionsMax = optionsMax
        self.admit = admit
    }

    /// The number of bytes that `consume` wants; zero for an option without payload.
    var neededBytes: Int {
        switch expected {
        case .clientFlags: 4
        case .optionHeader: NBDSize.optionHeaderBytes
        case .payload(let header): Int(header.payloadBytes)
        case .skip(let lengthBytes): min(lengthBytes, Self.payloadBytesMax)
        }
    }

    /// Takes the `neededBytes` and appends what is to be sent to `reply`.
    mutating func consume(
        _ input: UnsafeRawBufferPointer, reply: inout [UInt8]
    ) -> Outcome {
        switch expected {
        case .clientFlags:
            return takeClientFlags(input)
        case .optionHeader:
            guard let header = NBDOptionHeader(input) else {
                return .close("an option without its magic number")
            }
            return take(header, &reply)
        case .payload(let header):
            expected = .optionHeader
            return answer(header.option, input, &reply)
        case .skip(let lengthBytes):
            let left = lengthBytes - input.count
            expected = left > 0 ? .skip(lengthBytes: left) : .optionHeader
            return .more
        }
    }

    private mutating func takeClientFlags(_ input: UnsafeRawBufferPointer) -> Outcome {
        var reader = ByteReader(input)
        guard let number = reader.number(UInt32.self), let bits = UInt16(exactly: number),
            NBDHandshakeFlags(rawValue: bits).isSubset(of: [.fixedNewstyle, .noZeroes])
        else { return .close("unknown client flags") }
        sendsZeroes = !NBDHandshakeFlags(rawValue: bits).contains(.noZeroes)
        expected = .optionHeader
        return .more
    }

    private mutating func take(_ header: NBDOptionHeader, _ reply: inout [UInt8]) -> Outcome {
        optionCount += 1
        guard optionCount <= optionsMax else { return .close("more than \(optionsMax) options") }
        if header.payloadBytes <= Self.payloadBytesMax {
            expected = .payload(header)
            return .more
        }
        // EXPORT_NAME has no way to say that it failed.
        guard header.payloadBytes <= Self.skippedBytesMax,
            header.option != NBDOption.exportName.rawValue
        else { return .close("an option of \(header.payloadBytes) bytes") }
        reply += NBDOptionReply.message(to: header.option, .errorTooBig)
        expected = .skip(lengthBytes: Int(header.payloadBytes))
        return .more
    }

    private mutating func answer(
        _ number: UInt32, _ payload: UnsafeRawBufferPointer, _ reply: inout [UInt8]
    ) -> Outcome {
        guard let option = NBDOption(rawValue: number) else {
            reply += NBDOptionReply.message(to: number, .errorUnsupported)
            return .more
        }
        switch option {
        case .exportName:
            return answerExportName(payload, &reply)
        case .info, .go:
            return answerInfo(option, payload, &reply)
        case .listMetaContext, .setMetaContext:
            answerContexts(option, payload, &reply)
            return .more
        case .abort, .list, .structuredReply, .extendedHeaders, .startTLS:
            guard payload.isEmpty else {
                reply += refusal(option, .errorInvalid, "the option has no payload")
                return .more
            }
            return answerPlain(option, &reply)
        }
    }

    private mutating func answerPlain(_ option: NBDOption, _ reply: inout [UInt8]) -> Outcome {
        switch option {
        case .abort:
            reply += NBDOptionReply.message(to: option.rawValue, .ack)
            return .close(nil)
        case .list:
            for export in table.all() {
                let payload = NBDOptionReply.server(
                    name: export.name, description: export.description)
                reply += NBDOptionReply.message(to: option.rawValue, .server, payload)
            }
            reply += NBDOptionReply.message(to: option.rawValue, .ack)
        case .structuredReply:
            reply += answerForm(option, .structured)
        case .extendedHeaders:
            reply += answerForm(option, .extended)
        default:
            reply += NBDOptionReply.message(to: option.rawValue, .errorUnsupported)
        }
        return .more
    }

    // Extended headers replace structured replies, never the other way round.
    private mutating func answerForm(_ option: NBDOption, _ wanted: NBDMessageForm) -> [UInt8] {
        if form == wanted {
            return refusal(option, .errorInvalid, "that was negotiated before")
        }
        if form == .extended {
            return refusal(
                option, .errorExtendedHeadersRequired, "extended headers were negotiated before")
        }
        form = wanted
        return NBDOptionReply.message(to: option.rawValue, .ack)
    }

    private func answerExportName(
        _ payload: UnsafeRawBufferPointer, _ reply: inout [UInt8]
    ) -> Outcome {
        guard payload.count <= NBDSize.stringBytesMax,
            let name = String(validating: payload, as: UTF8.self), let entry = table.find(name)
        else { return .close(nil) }
        guard form != .extended else {
            return .close("EXPORT_NAME after extended headers, which only GO can conclude")
        }
        guard admit() else { return .close(nil) }
        let agreement = agreement(on: entry)
        reply += NBDOptionReply.exportNameAnswer(
            sizeBytes: agreement.rules.sizeBytes, flags: flags(agreement.rules),
            withZeroes: sendsZeroes)
        return .transmit(agreement)
    }

    private func answerInfo(
        _ option: NBDOption, _ payload: UnsafeRawBufferPointer, _ reply: inout [UInt8]
    ) -> Outcome {
        guard let query = NBDInfoQuery(payload) else {
            reply += refusal(option, .errorInvalid, "malformed payload")
            return .more
        }
        guard let entry = table.find(query.exportName) else {
            reply += refusal(option, .errorUnknown, "there is no export of that name")
            return .more
        }
        guard option == .info || admit() else {
            reply += refusal(option, .errorPolicy, "too many clients are connected: try again")
            return .more
        }
        let agreement = agreement(on: entry)
        for info in [.export] + query.infos.filter({ $0 != .export }) {
            let payload =
                switch info {
                case .export:
                    NBDOptionReply.exportInfo(
                        sizeBytes: agreement.rules.sizeBytes, flags: flags(agreement.rules))
                case .name: NBDOptionReply.textInfo(info, entry.export.name)
                case .description: NBDOptionReply.textInfo(info, entry.export.description)
                case .blockSize:
                    NBDOptionReply.blockSizeInfo(preferredBytes: preferredBytes(entry.export))
                }
            reply += NBDOptionReply.message(to: option.rawValue, .info, payload)
        }
        reply += NBDOptionReply.message(to: option.rawValue, .ack)
        return option == .go ? .transmit(agreement) : .more
    }

    private mutating func answerContexts(
        _ option: NBDOption, _ payload: UnsafeRawBufferPointer, _ reply: inout [UInt8]
    ) {
        let isListing = option == .listMetaContext
        if !isListing {
            // A request to set contexts replaces the earlier ones even if it fails.
            contexts = []
            contextsEntry = nil
        }
        guard form.hasChunks else {
            reply += refusal(option, .errorInvalid, "structured replies come first")
            return
        }
        guard let query = NBDContextQuery(payload) else {
            reply += refusal(option, .errorInvalid, "malformed payload")
            return
        }
        guard let entry = table.find(query.exportName) else {
            reply += refusal(option, .errorUnknown, "there is no export of that name")
            return
        }
        let matching = NBDMetaContext.matching(
            query.queries, of: NBDMetaContext.all(bitmapNames: entry.export.bitmapNames),
            isListing: isListing)
        for (index, context) in matching.enumerated() {
            let payload = NBDOptionReply.metaContext(
                id: isListing ? 0 : UInt32(index + 1), name: context.name)
            reply += NBDOptionReply.message(to: option.rawValue, .metaContext, payload)
        }
        reply += NBDOptionReply.message(to: option.rawValue, .ack)
        if !isListing {
            contexts = matching
            contextsEntry = entry
        }
    }

    private func refusal(
        _ option: NBDOption, _ type: NBDOptionReplyType, _ text: String
    ) -> [UInt8] {
        NBDOptionReply.message(to: option.rawValue, type, Array(text.utf8))
    }

    // Contexts count only for the export that they were set for.
    private func agreement(on entry: NBDExportTable.Entry) -> NBDAgreement {
        let agreed = entry === contextsEntry ? contexts : []
        let device = entry.export.device
        let rules = NBDRequestRules(
            sizeBytes: device.lengthBytes,
            isReadOnly: entry.export.isReadOnly || device.isReadOnly,
            form: form, hasContexts: !agreed.isEmpty)
        return NBDAgreement(entry: entry, rules: rules, contexts: agreed)
    }

    private func flags(_ rules: NBDRequestRules) -> NBDTransmissionFlags {
        var flags: NBDTransmissionFlags = [
            .hasFlags, .sendFlush, .sendFUA, .canMultiConn, .sendCache,
        ]
        flags.formUnion(
            rules.isReadOnly ? .readOnly : [.sendTrim, .sendWriteZeroes, .sendFastZero])
        if rules.form.hasChunks { flags.insert(.sendDF) }
        if rules.form == .extended && rules.hasContexts { flags.insert(.blockStatusPayload) }
        return flags
    }

    // Small allocation units are worth telling; requests of several MiB are not worth forcing.
    private func preferredBytes(_ export: any NBDExport) -> UInt32 {
        let unit = export.device.allocationUnitBytes
        return unit <= 64 << 10 ? max(4096, UInt32(unit)) : 4096
    }
}
