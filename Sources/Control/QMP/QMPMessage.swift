/// The messages of the protocol other than events.
enum QMPMessage {
    /// What the server says first.
    static func greeting() throws -> JSONValue {
        let version = try JSONValue(encoding: ControlVersion.info)
        return ["QMP": ["version": version, "capabilities": []]]
    }

    /// The answer to a request that succeeded.
    static func success(_ result: JSONValue, id: JSONValue?) -> JSONValue {
        var members: [String: JSONValue] = ["return": result]
        members["id"] = id
        return .object(members)
    }

    /// The answer to a request that failed.
    static func failure(_ error: ControlError, id: JSONValue?) -> JSONValue {
        var body: [String: JSONValue] = [
            "class": .string(error.errorClass.rawValue), "desc": .string(error.description),
        ]
        body["reason"] = error.reason.map { .string($0.rawValue) }
        var members: [String: JSONValue] = ["error": .object(body)]
        members["id"] = id
        return .object(members)
    }

    /// A request to run `command`.
    static func request(_ command: String, arguments: JSONValue, id: JSONValue) -> JSONValue {
        var members: [String: JSONValue] = ["execute": .string(command), "id": id]
        if arguments != [:] { members["arguments"] = arguments }
        return .object(members)
    }

    /// The error that a client received as the member `error` of an answer.
    static func error(in body: JSONValue) -> ControlError {
        ControlError(
            body["class"]?.stringValue.flatMap(ControlErrorClass.init(rawValue:)) ?? .generic,
            body["desc"]?.stringValue ?? "the agent gave no description of the error",
            reason: body["reason"]?.stringValue.flatMap(ControlErrorReason.init(rawValue:)))
    }

    /// The bytes of a message: one line, as clients that read by line expect.
    static func bytes(_ message: JSONValue) -> [UInt8] {
        Array((message.compactText + "\r\n").utf8)
    }
}

/// A client's request.
struct QMPRequest: Equatable {
    var command: String
    var arguments: JSONValue
    /// Echoed in the answer; any JSON value.
    var id: JSONValue?

    /// The request that `message` spells.
    init(_ message: JSONValue) throws(ControlError) {
        guard case .object(let members) = message else {
            throw .generic("QMP input must be a JSON object")
        }
        let known: Set = ["execute", "arguments", "id"]
        if let key = members.keys.sorted().first(where: { !known.contains($0) }) {
            throw .generic("QMP input member '\(key)' is unexpected")
        }
        guard let execute = members["execute"] else {
            throw .generic("QMP input lacks member 'execute'")
        }
        guard let command = execute.stringValue else {
            throw .generic("QMP input member 'execute' must be a string")
        }
        let arguments = members["arguments"] ?? [:]
        guard arguments.objectValue != nil else {
            throw .generic("QMP input member 'arguments' must be an object")
        }
        self.command = command
        self.arguments = arguments
        self.id = members["id"]
    }
}
