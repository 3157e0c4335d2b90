// The server's side of one connection, without any I/O: bytes go in, things to do come out.
//
// A session begins in negotiation, in which only `qmp_capabilities` is answered; that command
// succeeds once and opens command mode. Events are for sessions in command mode only.

/// The state of one connection at the server.
struct QMPSession {
    /// What is to be done next, in order.
    enum Action: Equatable {
        /// Send this.
        case reply(JSONValue)
        /// Send this; from now on the client gets events.
        case enterCommandMode(JSONValue)
        /// Run this and send what it comes to.
        case execute(QMPRequest)
        /// Send this, then close the connection.
        case replyAndClose(JSONValue)
    }

    private var framer: QMPFramer
    private let depthMax: Int
    private var isNegotiated = false

    init(limits: QMPLimits) {
        framer = QMPFramer(valueBytesMax: limits.requestBytesMax, depthMax: limits.depthMax)
        depthMax = limits.depthMax
    }

    /// Takes bytes from the client and says what they ask for.
    mutating func receive(_ bytes: some Sequence<UInt8>) -> [Action] {
        framer.consume(bytes).map { item in
            switch item {
            case .value(let bytes): act(on: bytes)
            case .garbage(let text): .reply(QMPMessage.failure(.generic(text), id: nil))
            case .fatal(let text): .replyAndClose(QMPMessage.failure(.generic(text), id: nil))
            }
        }
    }

    private mutating func act(on bytes: [UInt8]) -> Action {
        let message: JSONValue
        do {
            message = try JSONParser.parse(bytes, depthMax: depthMax)
        } catch {
            let text = "JSON parse error, \(error.message) (at byte \(error.offset))"
            return .reply(QMPMessage.failure(.generic(text), id: nil))
        }
        do throws(ControlError) {
            return try act(on: QMPRequest(message))
        } catch {
            return .reply(QMPMessage.failure(error, id: message["id"]))
        }
    }

    private mutating func act(on request: QMPRequest) throws(ControlError) -> Action {
        if request.command == "qmp_capabilities" {
            guard !isNegotiated else {
                throw ControlError(
                    .commandNotFound,
                    "Capabilities negotiation is already complete, command ignored")
            }
            try checkCapabilities(request.arguments)
            isNegotiated = true
            return .enterCommandMode(QMPMessage.success([:], id: request.id))
        }
        guard isNegotiated else {
            throw ControlError(
                .commandNotFound, "Expecting capabilities negotiation with 'qmp_capabilities'")
        }
        return .execute(request)
    }

    /// Refuses what the greeting did not offer; it offers nothing.
    private func checkCapabilities(_ arguments: JSONValue) throws(ControlError) {
        struct Negotiation: Codable { var enable: [String]? }
        let asked = try JSONValueDecoder.decode(
            Negotiation.self, from: arguments, refusesUnknownMembers: true)
        if let capability = asked.enable?.first {
            throw .generic("Capability '\(capability)' is not available")
        }
    }
}
