import BlockCore
import Testing

@testable import NBDServer

@Suite struct CodecTests {
    @Test func aRequestSurvivesTheWire() {
        let request = NBDRequest(
            .writeZeroes, flags: [.fua, .noHole], cookie: 0x0102_0304_0506_0708,
            offset: 0xfedc_ba98_7654_3210, lengthBytes: UInt64(UInt32.max))
        for form in [NBDMessageForm.simple, .structured, .extended] {
            let bytes = encoded(request, form)
            #expect(bytes.count == form.requestBytes)
            #expect(decoded(bytes, form) == request)
        }
    }

    @Test func aRequestWithoutItsMagicNumberIsNone() {
        var bytes = encoded(NBDRequest(.read, cookie: 1, offset: 0, lengthBytes: 1))
        bytes[3] ^= 1
        #expect(decoded(bytes, .structured) == nil)
        bytes[3] ^= 1
        #expect(decoded(bytes + [0, 0, 0, 0], .extended) == nil)
    }

    struct Case: CustomTestStringConvertible {
        var command: NBDCommand
        var flags: NBDCommandFlags = []
        var offset: UInt64 = 0
        var lengthBytes: UInt64 = 1
        var code: NBDErrorCode?
        var testDescription: String { "\(command) \(flags.rawValue) \(offset)+\(lengthBytes)" }
    }

    private static let size: UInt64 = 100 << 20

    @Test(arguments: [
        Case(command: .read, flags: [.df, .fua], code: nil),
        Case(command: .read, flags: .reqOne, code: .invalid),
        Case(command: .read, offset: size - 1, code: nil),
        Case(command: .read, offset: size, lengthBytes: 0, code: nil),
        Case(command: .read, offset: size, code: .invalid),
        Case(command: .read, offset: .max, code: .invalid),
        Case(command: .read, offset: .max - 1, lengthBytes: .max, code: .invalid),
        Case(command: .read, lengthBytes: 32 << 20, code: nil),
        Case(command: .read, lengthBytes: 32 << 20 + 1, code: .overflow),
        Case(command: .write, offset: size, code: .noSpace),
        Case(command: .write, lengthBytes: 32 << 20 + 1, code: .invalid),
        Case(command: .write, flags: .df, code: .invalid),
        Case(command: .writeZeroes, flags: .noHole, lengthBytes: 100 << 20, code: nil),
        Case(command: .writeZeroes, flags: .fastZero, code: nil),
        Case(command: .trim, flags: .fastZero, code: .invalid),
        Case(command: .write, flags: .payloadLength, code: .invalid),
        Case(command: .writeZeroes, offset: 1, lengthBytes: 100 << 20, code: .noSpace),
        Case(command: .trim, lengthBytes: 100 << 20, code: nil),
        Case(command: .trim, offset: size, code: .invalid),
        Case(command: .cache, lengthBytes: 100 << 20, code: nil),
        Case(command: .flush, offset: .max, lengthBytes: .max, code: nil),
        Case(command: .disconnect, flags: .init(rawValue: .max), code: nil),
        Case(command: .blockStatus, flags: .reqOne, code: nil),
        Case(command: .blockStatus, lengthBytes: 0, code: .invalid),
    ])
    func requestsAreChecked(_ test: Case) {
        let rules = NBDRequestRules(
            sizeBytes: Self.size, isReadOnly: false, form: .structured, hasContexts: true)
        let request = NBDRequest(
            test.command, flags: test.flags, cookie: 1, offset: test.offset,
            lengthBytes: test.lengthBytes)
        #expect(rules.refusal(of: request, test.command)?.code == test.code)
    }

    @Test func whatWasNotNegotiatedIsRefused() {
        let rules = NBDRequestRules(
            sizeBytes: 4096, isReadOnly: true, form: .simple, hasContexts: false)
        func code(_ command: NBDCommand, _ flags: NBDCommandFlags = []) -> NBDErrorCode? {
            let request = NBDRequest(command, flags: flags, cookie: 1, offset: 0, lengthBytes: 1)
            return rules.refusal(of: request, command)?.code
        }
        #expect(code(.read) == nil)
        #expect(code(.read, .df) == .invalid)
        #expect(code(.blockStatus) == .invalid)
        #expect(code(.write) == .notPermitted)
        #expect(code(.writeZeroes) == .notPermitted)
        #expect(code(.trim) == .notPermitted)
        #expect(code(.flush) == nil)
    }

    @Test func simpleRepliesHaveTheirForm() {
        let codec = NBDReplyCodec(.simple)
        let cookie: UInt64 = 0x1122_3344_5566_7788
        let request = NBDRequest(.read, cookie: cookie, offset: 512, lengthBytes: 1024)
        let failure = codec.failure(NBDFailure(.noSpace, "no room", at: 600), request)
        #expect(
            failure == bigEndian(NBDMagic.simpleReply) + bigEndian(28 as UInt32)
                + bigEndian(cookie))
        #expect(
            filled(codec.readHeadBytes) { codec.putReadHead(request, at: $0) }
                == bigEndian(NBDMagic.simpleReply) + bigEndian(0 as UInt32) + bigEndian(cookie))
    }

    @Test func structuredRepliesHaveTheirForm() {
        let codec = NBDReplyCodec(.structured)
        func chunk(_ type: UInt16, _ length: UInt32, flags: UInt16 = 1) -> [UInt8] {
            bigEndian(NBDMagic.structuredReply) + bigEndian(flags) + bigEndian(type)
                + bigEndian(7 as UInt64) + bigEndian(length)
        }
        let request = NBDRequest(.read, cookie: 7, offset: 512, lengthBytes: 1024)
        #expect(
            filled(codec.readHeadBytes) { codec.putReadHead(request, at: $0) }
                == chunk(1, 1032) + bigEndian(512 as UInt64))
        #expect(filled(codec.successBytes) { codec.putSuccess(request, at: $0) } == chunk(0, 0))
        #expect(
            codec.failure(NBDFailure(.inputOutput, "disk"), request)
                == chunk(0x8001, 10) + bigEndian(5 as UInt32) + bigEndian(4 as UInt16) + "disk".utf8
        )
        let runs = [
            NBDStatusRun(lengthBytes: 4096, flags: 3), NBDStatusRun(lengthBytes: 1, flags: 0),
        ]
        #expect(
            codec.blockStatus([(1, runs), (2, [runs[1]])], request)
                == chunk(5, 20, flags: 0) + [0, 0, 0, 1, 0, 0, 16, 0, 0, 0, 0, 3]
                + [0, 0, 0, 1, 0, 0, 0, 0] + chunk(5, 12) + [0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0])
    }

    @Test func longMessagesAreCutBetweenCharacters() {
        let codec = NBDReplyCodec(.structured)
        let failure = codec.failure(
            NBDFailure(.invalid, "x" + String(repeating: "é", count: 4000)),
            NBDRequest(.flush, cookie: 1, offset: 0, lengthBytes: 0))
        let text = failure[26...]
        #expect(text.count == NBDReplyCodec.messageBytesMax - 1)
        #expect(String(validating: text, as: UTF8.self) != nil)
    }

    @Test(arguments: [
        (BlockError.Kind.io, NBDErrorCode.inputOutput), (.noSpace, .noSpace),
        (.corrupt, .inputOutput), (.unsupported, .invalid), (.outOfRange, .invalid),
        (.busy, .inputOutput), (.readOnly, .notPermitted), (.notFound, .inputOutput),
        (.invalid, .invalid), (.cancelled, .shuttingDown), (.timedOut, .inputOutput),
    ])
    func errorsHaveNumbersOfTheProtocol(_ kind: BlockError.Kind, _ code: NBDErrorCode) {
        #expect(NBDErrorCode(kind) == code)
    }

    @Test func infoQueriesAreParsed() {
        let query = infoPayload("disk", [3, 1, 99, 0]).withUnsafeBytes { NBDInfoQuery($0) }
        #expect(query?.exportName == "disk")
        #expect(query?.infos == [.blockSize, .name, .export])
    }

    @Test func whatAnInfoQueryRepeatsIsAnsweredOnce() {
        let many = [UInt16](repeating: 2, count: 30_000) + [1, 2, 1]
        let query = infoPayload("disk", many).withUnsafeBytes { NBDInfoQuery($0) }
        #expect(query?.infos == [.description, .name])
    }

    @Test func everyOtherLengthOfAnInfoQueryIsRefused() {
        let whole = infoPayload("disk", [3, 1])
        for count in 0..<whole.count {
            #expect(Array(whole[..<count]).withUnsafeBytes { NBDInfoQuery($0) } == nil)
        }
        #expect((whole + [0]).withUnsafeBytes { NBDInfoQuery($0) } == nil)
    }

    @Test func contextQueriesAreParsed() {
        let payload = contextPayload("disk", ["base:allocation", ""])
        let query = payload.withUnsafeBytes { NBDContextQuery($0) }
        #expect(query?.exportName == "disk")
        #expect(query?.queries == ["base:allocation", ""])
        for count in 0..<payload.count {
            #expect(Array(payload[..<count]).withUnsafeBytes { NBDContextQuery($0) } == nil)
        }
    }

    @Test func stringsWithImpossibleLengthsOrBytesAreRefused() {
        let huge = bigEndian(UInt32.max) + [0, 0]
        #expect(huge.withUnsafeBytes { NBDInfoQuery($0) } == nil)
        let long = infoPayload(String(repeating: "x", count: 4097))
        #expect(long.withUnsafeBytes { NBDInfoQuery($0) } == nil)
        let notText = bigEndian(UInt32(2)) + [0xc3, 0x28] + bigEndian(UInt16(0))
        #expect(notText.withUnsafeBytes { NBDInfoQuery($0) } == nil)
        let manyQueries = counted("disk") + bigEndian(UInt32.max)
        #expect(manyQueries.withUnsafeBytes { NBDContextQuery($0) } == nil)
    }

    @Test func contextsAreMatchedByNameAndListedByNamespace() {
        let all = NBDMetaContext.all(bitmapNames: ["a", "b"])
        func names(_ queries: [String], isListing: Bool) -> [String] {
            NBDMetaContext.matching(queries, of: all, isListing: isListing).map(\.name)
        }
        let everything = [
            "base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:a",
            "qemu:dirty-bitmap:b",
        ]
        #expect(names([], isListing: true) == everything)
        #expect(names(["base:"], isListing: true) == ["base:allocation"])
        #expect(names(["qemu:"], isListing: true) == Array(everything[1...]))
        #expect(names(["qemu:dirty-bitmap:"], isListing: true) == Array(everything[2...]))
        #expect(names(["qemu:allocation-depth"], isListing: true) == [everything[1]])
        #expect(names(["other:thing", "qem"], isListing: true) == [])
        #expect(names([], isListing: false) == [])
        #expect(names(["base:", "qemu:"], isListing: false) == [])
        #expect(
            names(
                ["qemu:dirty-bitmap:b", "base:allocation", "base:allocation"], isListing: false)
                == ["base:allocation", "qemu:dirty-bitmap:b"])
    }

    @Test func statusRunsMergeAndStayInsideTheRange() {
        var runs = NBDStatusRuns(ByteRange(offset: 0, lengthBytes: 100))
        for (length, flags) in [(10, 1), (20, 1), (0, 0), (30, 0), (1 << 40, 1)] {
            runs.append(UInt64(length), UInt32(flags))
        }
        #expect(
            runs.runs == [
                NBDStatusRun(lengthBytes: 30, flags: 1), NBDStatusRun(lengthBytes: 30, flags: 0),
                NBDStatusRun(lengthBytes: 40, flags: 1),
            ])
    }

    private func decoded(_ bytes: [UInt8], _ form: NBDMessageForm) -> NBDRequest? {
        bytes.withUnsafeBytes { NBDRequest($0.baseAddress!, form) }
    }

    private func filled(_ count: Int, _ fill: (UnsafeMutableRawPointer) -> Void) -> [UInt8] {
        var bytes = [UInt8](repeating: 0xff, count: count)
        bytes.withUnsafeMutableBytes { fill($0.baseAddress!) }
        return bytes
    }
}
