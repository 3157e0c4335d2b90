import Glibc
import Testing

@testable import NBDServer

/// A client that sends whatever bytes a test makes up, and waits ten seconds for an answer.
///
/// `@unchecked Sendable` is true because each test uses its clients from one task at a time.
final class TestClient: @unchecked Sendable {
    /// The connection ended, or nothing came in time.
    struct NoAnswer: Error {}

    /// A reply of the transmission phase: what both forms have in common.
    struct Reply: Equatable {
        var cookie: UInt64
        var error: UInt32 = 0
        var message = ""
        /// Where it failed, if the reply says so.
        var errorOffset: UInt64?
        /// The offset that the header of an extended reply repeats.
        var requestOffset: UInt64?
        var type: UInt16?
        var isDone = true
        /// The data of a read, or the payload of any other chunk.
        var payload: [UInt8] = []
    }

    private let descriptor: Int32
    private var form = NBDMessageForm.simple

    init(connectingTo path: String) throws {
        descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        let status = withUnsafePointer(to: address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        try #require(status == 0, "cannot connect to \(path)")
        var limit = timeval(tv_sec: 10, tv_usec: 0)
        setsockopt(
            descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit { close(descriptor) }

    /// Sends all of `bytes`; throws if the server is gone.
    func send(_ bytes: [UInt8]) throws {
        var done = 0
        while done < bytes.count {
            let sent = bytes.withUnsafeBytes {
                Glibc.send(
                    descriptor, $0.baseAddress! + done, bytes.count - done,
                    Int32(MSG_NOSIGNAL))
            }
            guard sent > 0 else { throw NoAnswer() }
            done += sent
        }
    }

    /// The next `count` bytes.
    func receive(_ count: Int) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var done = 0
        while done < count {
            let got = bytes.withUnsafeMutableBytes {
                recv(descriptor, $0.baseAddress! + done, count - done, 0)
            }
            guard got > 0 else { throw NoAnswer() }
            done += got
        }
        return bytes
    }

    /// Whether the server has ended the connection, having sent no more.
    func isEnded() -> Bool {
        var byte: UInt8 = 0
        let got = recv(descriptor, &byte, 1, 0)
        return got == 0 || (got < 0 && errno == ECONNRESET)
    }

    /// Says that nothing more will be sent.
    func endSending() { shutdown(descriptor, Int32(SHUT_WR)) }

    /// Takes the greeting and sends `flags`.
    func greet(flags: UInt32 = 3) throws {
        #expect(try receive(18) == NBDOptionReply.greeting())
        try send(bigEndian(flags))
    }

    /// Sends an option.
    func sendOption(_ option: UInt32, _ payload: [UInt8] = []) throws {
        try send(
            bigEndian(NBDMagic.option) + bigEndian(option) + bigEndian(UInt32(payload.count))
                + payload)
    }

    /// One answer to an option.
    func optionReply(to option: UInt32) throws -> (type: UInt32, payload: [UInt8]) {
        let head = try receive(20)
        #expect(number(head, 0, UInt64.self) == NBDMagic.optionReply)
        #expect(number(head, 8, UInt32.self) == option)
        let payload = try receive(Int(number(head, 16, UInt32.self)))
        return (number(head, 12, UInt32.self), payload)
    }

    /// All answers to an option, up to and including the one that ends it.
    func optionReplies(to option: UInt32) throws -> [(type: UInt32, payload: [UInt8])] {
        var replies: [(type: UInt32, payload: [UInt8])] = []
        while true {
            let reply = try optionReply(to: option)
            replies.append(reply)
            if reply.type == 1 || reply.type >= 1 << 31 { return replies }
        }
    }

    /// Goes through the handshake up to the transmission phase.
    func open(
        _ export: String, form: NBDMessageForm = .structured, contexts: [String] = []
    ) throws {
        try greet()
        self.form = form
        let option: NBDOption? =
            switch form {
            case .simple: nil
            case .structured: .structuredReply
            case .extended: .extendedHeaders
            }
        if let option {
            try sendOption(option.rawValue)
            #expect(try optionReply(to: option.rawValue).type == 1)
        }
        if !contexts.isEmpty {
            let option = NBDOption.setMetaContext.rawValue
            try sendOption(option, contextPayload(export, contexts))
            #expect(try optionReplies(to: option).count == contexts.count + 1)
        }
        try sendOption(NBDOption.go.rawValue, infoPayload(export))
        #expect(try optionReplies(to: NBDOption.go.rawValue).last?.type == 1)
    }

    /// Goes through the handshake; false, or an error, if the server turns the client away.
    func tryOpen(_ export: String) throws -> Bool {
        _ = try receive(18)
        try send(bigEndian(3 as UInt32))
        try sendOption(NBDOption.go.rawValue, infoPayload(export))
        while true {
            let head = try receive(20)
            _ = try receive(Int(number(head, 16, UInt32.self)))
            let type = number(head, 12, UInt32.self)
            if type != NBDOptionReplyType.info.rawValue { return type == 1 }
        }
    }

    /// Sends a request.
    func sendRequest(_ request: NBDRequest, _ payload: [UInt8] = []) throws {
        try send(encoded(request, form) + payload)
    }

    /// The next reply; simple replies to reads need `dataBytes`.
    func reply(dataBytes: Int = 0) throws -> Reply {
        if form == .extended { return try extendedReply() }
        let magic = number(try receive(4), 0, UInt32.self)
        if magic == NBDMagic.simpleReply {
            let rest = try receive(12)
            var reply = Reply(
                cookie: number(rest, 4, UInt64.self), error: number(rest, 0, UInt32.self))
            if reply.error == 0 { reply.payload = try receive(dataBytes) }
            return reply
        }
        try #require(magic == NBDMagic.structuredReply)
        let rest = try receive(16)
        return try chunk(rest, cookie: 4, payload: receive(Int(number(rest, 12, UInt32.self))))
    }

    private func extendedReply() throws -> Reply {
        let head = try receive(NBDSize.extendedHeaderBytes)
        try #require(number(head, 0, UInt32.self) == NBDMagic.extendedReply)
        let length = try #require(Int(exactly: number(head, 24, UInt64.self)))
        var reply = try chunk(
            Array(head[4...]), cookie: 4, payload: receive(length))
        reply.requestOffset = number(head, 16, UInt64.self)
        return reply
    }

    private func chunk(_ rest: [UInt8], cookie: Int, payload: [UInt8]) throws -> Reply {
        var reply = Reply(
            cookie: number(rest, cookie, UInt64.self), type: number(rest, 2, UInt16.self),
            isDone: number(rest, 0, UInt16.self) == 1, payload: payload)
        switch reply.type {
        case NBDChunkType.error.rawValue, NBDChunkType.errorOffset.rawValue:
            reply.error = number(payload, 0, UInt32.self)
            let textEnd = 6 + Int(number(payload, 4, UInt16.self))
            reply.message = String(decoding: payload[6..<textEnd], as: UTF8.self)
            if reply.type == NBDChunkType.errorOffset.rawValue {
                #expect(payload.count == textEnd + 8)
                reply.errorOffset = number(payload, textEnd, UInt64.self)
            } else {
                #expect(payload.count == textEnd)
            }
            reply.payload = []
        case NBDChunkType.offsetData.rawValue:
            reply.payload = Array(payload[8...])
        default: break
        }
        return reply
    }

    /// Sends a request and takes the next reply.
    func exchange(_ request: NBDRequest, _ payload: [UInt8] = []) throws -> Reply {
        try sendRequest(request, payload)
        let isRead = request.type == NBDCommand.read.rawValue
        return try reply(dataBytes: isRead ? Int(clamping: request.lengthBytes) : 0)
    }
}

/// The bytes of `number` as they go over the wire.
func bigEndian<T: FixedWidthInteger & BitwiseCopyable>(_ number: T) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.appendBigEndian(number)
    return bytes
}

/// The number at `offset` of `bytes`.
func number<T: FixedWidthInteger & BitwiseCopyable>(
    _ bytes: [UInt8], _ offset: Int, _ type: T.Type
) -> T {
    bytes.withUnsafeBytes { $0.baseAddress!.loadBigEndian(offset, as: type) }
}

/// A request as a client sends it.
func encoded(_ request: NBDRequest, _ form: NBDMessageForm = .structured) -> [UInt8] {
    let isExtended = form == .extended
    var flags = request.flags
    if isExtended && request.hasPayload { flags.insert(.payloadLength) }
    return bigEndian(isExtended ? NBDMagic.extendedRequest : NBDMagic.request)
        + bigEndian(flags.rawValue) + bigEndian(request.type) + bigEndian(request.cookie)
        + bigEndian(request.offset)
        + (isExtended
            ? bigEndian(request.lengthBytes) : bigEndian(UInt32(request.lengthBytes)))
}

/// A string as options carry it.
func counted(_ text: String) -> [UInt8] { bigEndian(UInt32(text.utf8.count)) + text.utf8 }

/// The payload of INFO and GO.
func infoPayload(_ export: String, _ infos: [UInt16] = []) -> [UInt8] {
    counted(export) + bigEndian(UInt16(infos.count)) + infos.flatMap { bigEndian($0) }
}

/// The payload of LIST_META_CONTEXT and SET_META_CONTEXT.
func contextPayload(_ export: String, _ queries: [String]) -> [UInt8] {
    counted(export) + bigEndian(UInt32(queries.count)) + queries.flatMap { counted($0) }
}

/// `count` bytes that differ from place to place.
func pattern(_ count: Int, _ seed: UInt8 = 1) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 8) &+ seed }
}
