/// The form that requests and replies have on a connection, as agreed on in the handshake.
enum NBDMessageForm {
    /// Replies are an error number, and a read's data.
    case simple
    /// Replies are made of chunks.
    case structured
    /// Replies are made of chunks, and all headers are of one size with 64-bit lengths.
    case extended

    /// Whether replies are made of chunks, which can carry text and block status.
    var hasChunks: Bool { self != .simple }

    /// The length of a request's header.
    var requestBytes: Int {
        self == .extended ? NBDSize.extendedHeaderBytes : NBDSize.requestBytes
    }
}
