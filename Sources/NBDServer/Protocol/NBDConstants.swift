// The numbers of the NBD protocol (fixed newstyle) that this server knows. Whatever else a client
// sends is answered as unknown, never guessed at.

/// The magic numbers that open each message.
enum NBDMagic {
    static let greeting: UInt64 = 0x4e42_444d_4147_4943
    static let option: UInt64 = 0x4948_4156_454f_5054
    static let optionReply: UInt64 = 0x0003_e889_0455_65a9
    static let request: UInt32 = 0x2560_9513
    static let simpleReply: UInt32 = 0x6744_6698
    static let structuredReply: UInt32 = 0x668e_33ef
    static let extendedRequest: UInt32 = 0x21e4_1c71
    static let extendedReply: UInt32 = 0x6e8a_278c
}

/// The lengths of the messages' fixed parts, and the bounds on the others.
enum NBDSize {
    static let optionHeaderBytes = 16
    static let requestBytes = 28
    static let simpleReplyBytes = 16
    static let structuredReplyBytes = 20
    /// Of requests and replies alike, once extended headers are agreed on.
    static let extendedHeaderBytes = 32
    /// The most bytes of payload that one request may carry or ask for.
    static let payloadBytesMax = 32 << 20
    /// The longest name or query the protocol allows.
    static let stringBytesMax = 4096
}

/// Server's and client's flags that open the handshake.
struct NBDHandshakeFlags: OptionSet {
    let rawValue: UInt16

    static let fixedNewstyle = NBDHandshakeFlags(rawValue: 1 << 0)
    static let noZeroes = NBDHandshakeFlags(rawValue: 1 << 1)
}

/// What a client may ask during the handshake.
enum NBDOption: UInt32 {
    case exportName = 1
    case abort = 2
    case list = 3
    case startTLS = 5
    case info = 6
    case go = 7
    case structuredReply = 8
    case listMetaContext = 9
    case setMetaContext = 10
    case extendedHeaders = 11
}

/// How an option is answered.
enum NBDOptionReplyType: UInt32 {
    case ack = 1
    case server = 2
    case info = 3
    case metaContext = 4
    case errorUnsupported = 0x8000_0001
    case errorPolicy = 0x8000_0002
    case errorInvalid = 0x8000_0003
    case errorUnknown = 0x8000_0006
    case errorTooBig = 0x8000_0009
    case errorExtendedHeadersRequired = 0x8000_000a
}

/// What INFO and GO tell about an export.
enum NBDInfo: UInt16 {
    case export = 0
    case name = 1
    case description = 2
    case blockSize = 3
}

/// What an export can do, as told to the client.
struct NBDTransmissionFlags: OptionSet {
    let rawValue: UInt16

    static let hasFlags = NBDTransmissionFlags(rawValue: 1 << 0)
    static let readOnly = NBDTransmissionFlags(rawValue: 1 << 1)
    static let sendFlush = NBDTransmissionFlags(rawValue: 1 << 2)
    static let sendFUA = NBDTransmissionFlags(rawValue: 1 << 3)
    static let sendTrim = NBDTransmissionFlags(rawValue: 1 << 5)
    static let sendWriteZeroes = NBDTransmissionFlags(rawValue: 1 << 6)
    static let sendDF = NBDTransmissionFlags(rawValue: 1 << 7)
    static let canMultiConn = NBDTransmissionFlags(rawValue: 1 << 8)
    static let sendCache = NBDTransmissionFlags(rawValue: 1 << 10)
    static let sendFastZero = NBDTransmissionFlags(rawValue: 1 << 11)
    static let blockStatusPayload = NBDTransmissionFlags(rawValue: 1 << 12)
}

/// The requests of the transmission phase.
enum NBDCommand: UInt16 {
    case read = 0
    case write = 1
    case disconnect = 2
    case flush = 3
    case trim = 4
    case cache = 5
    case writeZeroes = 6
    case blockStatus = 7

    /// Whether it exists to change what the export holds, or to keep what was changed.
    var changesDisk: Bool {
        switch self {
        case .write, .writeZeroes, .trim, .flush: true
        case .read, .disconnect, .cache, .blockStatus: false
        }
    }
}

/// The flags of a request.
struct NBDCommandFlags: OptionSet {
    let rawValue: UInt16

    /// The data is durable before the reply.
    static let fua = NBDCommandFlags(rawValue: 1 << 0)
    /// Zeroes are written without giving storage back.
    static let noHole = NBDCommandFlags(rawValue: 1 << 1)
    /// The read is answered in one piece.
    static let df = NBDCommandFlags(rawValue: 1 << 2)
    /// One extent per context is enough.
    static let reqOne = NBDCommandFlags(rawValue: 1 << 3)
    /// Zeroes are written only if that is much faster than data would be.
    static let fastZero = NBDCommandFlags(rawValue: 1 << 4)
    /// The length in the header is that of a payload which follows it.
    static let payloadLength = NBDCommandFlags(rawValue: 1 << 5)
}

/// The kinds of chunks of a structured reply.
enum NBDChunkType: UInt16 {
    case none = 0
    case offsetData = 1
    case blockStatus = 5
    /// Block status with 64-bit lengths, for connections with extended headers.
    case blockStatusExtended = 6
    case error = 0x8001
    /// An error that also tells where in the request's range it happened.
    case errorOffset = 0x8002
}

/// The flag that marks the last chunk of a structured reply.
let nbdChunkDone: UInt16 = 1
