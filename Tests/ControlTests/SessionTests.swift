import Testing

@testable import Control

/// The server's side of the protocol, without I/O.
struct SessionTests {
    private static func failure(_ action: QMPSession.Action?) -> (String?, String?) {
        guard case .reply(let message) = action else { return (nil, nil) }
        return (message["error"]?["class"]?.stringValue, message["error"]?["desc"]?.stringValue)
    }

    private static func negotiated() -> QMPSession {
        var session = QMPSession(limits: QMPLimits())
        _ = session.receive(#"{"execute":"qmp_capabilities"}"#.utf8)
        return session
    }

    @Test func nothingButNegotiationIsAnsweredAtFirst() throws {
        var session = QMPSession(limits: QMPLimits())
        let refused = session.receive(#"{"execute":"query-version","id":7}"#.utf8)
        #expect(Self.failure(refused.first).0 == "CommandNotFound")
        guard case .reply(let message) = refused.first else { return }
        #expect(message["id"] == 7)
        #expect(
            session.receive(#"{"execute":"qmp_capabilities","id":"x"}"#.utf8)
                == [.enterCommandMode(["return": [:], "id": "x"])])
        #expect(
            session.receive(#"{"execute":"query-version"}"#.utf8)
                == [.execute(try QMPRequest(["execute": "query-version"]))])
    }

    @Test func negotiationSucceedsOnlyOnce() {
        var session = Self.negotiated()
        let again = Self.failure(session.receive(#"{"execute":"qmp_capabilities"}"#.utf8).first)
        #expect(again.0 == "CommandNotFound")
        #expect(again.1?.contains("already complete") == true)
    }

    @Test func aCapabilityThatWasNotOfferedIsRefused() {
        var session = QMPSession(limits: QMPLimits())
        let refused = session.receive(
            #"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}"#.utf8)
        #expect(Self.failure(refused.first).1 == "Capability 'oob' is not available")
        #expect(
            session.receive(#"{"execute":"qmp_capabilities"}"#.utf8)
                == [.enterCommandMode(["return": [:]])])
    }

    @Test(arguments: [
        ("[]", "QMP input must be a JSON object"),
        ("{}", "QMP input lacks member 'execute'"),
        (#"{"execute":1}"#, "QMP input member 'execute' must be a string"),
        (#"{"execute":"x","arguments":[]}"#, "QMP input member 'arguments' must be an object"),
        (#"{"execute":"x","extra":1}"#, "QMP input member 'extra' is unexpected"),
        (#"{"execute":}"#, "JSON parse error, a value was expected (at byte 11)"),
        ("nonsense\n", "QMP input must be a JSON object"),
    ])
    func badInputGetsAnErrorAndTheSessionGoesOn(_ input: String, _ text: String) {
        var session = Self.negotiated()
        let failure = Self.failure(session.receive(input.utf8).first)
        #expect(failure == ("GenericError", text))
        guard case .execute = session.receive(#"{"execute":"x"}"#.utf8).first else {
            Issue.record("the session does not go on")
            return
        }
    }

    @Test func aMessageBeyondTheLimitsClosesTheConnection() {
        var limits = QMPLimits()
        limits.requestBytesMax = 50
        var session = QMPSession(limits: limits)
        let actions = session.receive(("{\"execute\": \"" + String(repeating: "x", count: 99)).utf8)
        guard case .replyAndClose = actions.last, actions.count == 1 else {
            Issue.record("the connection is not closed: \(actions)")
            return
        }
    }

    @Test func anErrorCarriesItsReason() {
        let message = QMPMessage.failure(
            ControlError("no repository 'x'", reason: .noSuchRepository), id: nil)
        #expect(
            message == [
                "error": [
                    "class": "GenericError", "desc": "no repository 'x'",
                    "reason": "no-such-repository",
                ]
            ])
        #expect(
            QMPMessage.error(in: message["error"] ?? nil)
                == ControlError("no repository 'x'", reason: .noSuchRepository))
    }
}
