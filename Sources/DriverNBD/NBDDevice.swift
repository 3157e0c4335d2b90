package import BlockCore

/// An export of an NBD server as a block device, over as many connections as the server allows.
///
/// Nothing is known of it without waiting: the *now* face refuses everything.
package final class NBDDevice: BlockDevice {
    package let nodeName: String
    package let lengthBytes: UInt64
    package let isReadOnly: Bool
    package let allocationUnitBytes: UInt64

    private let facts: NBDExportFacts
    private let link: NBDLink
    private let aligned: AlignedAccess<NBDLink>

    private init(uri: String, facts: NBDExportFacts, link: NBDLink, readOnly: Bool) {
        nodeName = uri
        lengthBytes = facts.sizeBytes
        isReadOnly = readOnly
        allocationUnitBytes = max(facts.blockBytes, 4096)
        self.facts = facts
        self.link = link
        aligned = AlignedAccess(link, unitBytes: facts.blockBytes)
    }

    deinit { for connection in link.connections { connection.stopLater() } }

    /// Connects to the export at `uri` (`nbd://HOST:PORT/NAME` or `nbd+unix:///NAME?socket=PATH`).
    /// Blocks.
    package static func open(
        uri: String, readOnly: Bool, options: NBDOptions = NBDOptions()
    ) throws(BlockError) -> NBDDevice {
        try checkScheme(uri)
        let first = try NBDHandle(uri: uri, limit: options.connectLimit)
        let facts = try first.facts()
        try check(facts, uri, readOnly: readOnly)
        let session = NBDSession(uri: uri)
        let count = facts.canMultiConnect ? max(options.connectionsMax, 1) : 1
        var connections = [
            try NBDConnection(first, session: session, facts: facts, options: options)
        ]
        do throws(BlockError) {
            while connections.count < count {
                let handle = try NBDHandle(uri: uri, limit: options.connectLimit)
                guard try handle.facts() == facts else {
                    throw BlockError(
                        .busy, "connect", on: uri, detail: "the export changed while it was opened")
                }
                connections.append(
                    try NBDConnection(handle, session: session, facts: facts, options: options))
            }
        } catch {
            for connection in connections { connection.stopLater() }
            throw error
        }
        let link = NBDLink(
            connections: connections,
            requestBytesMax: facts.requestBytesMax.alignedDown(to: facts.blockBytes))
        return NBDDevice(
            uri: uri, facts: facts, link: link, readOnly: readOnly || facts.isReadOnly)
    }

    /// Whether `text` is the URI of an export that `open` can connect to.
    package static func isURI(_ text: String) -> Bool {
        text.hasPrefix("nbd://") || text.hasPrefix("nbd+unix://")
    }

    private static func checkScheme(_ uri: String) throws(BlockError) {
        guard isURI(uri) else {
            throw BlockError(
                .unsupported, "open", on: uri,
                detail: "NBD nodes are nbd://HOST:PORT/NAME or nbd+unix:///NAME?socket=PATH")
        }
    }

    private static func check(
        _ facts: NBDExportFacts, _ uri: String, readOnly: Bool
    ) throws(BlockError) {
        guard facts.blockBytes.isPowerOfTwo, facts.blockBytes <= 1 << 20,
            facts.sizeBytes % facts.blockBytes == 0, facts.requestBytesMax >= facts.blockBytes
        else {
            throw BlockError(
                .unsupported, "open", on: uri,
                detail: "the server wants blocks of \(facts.blockBytes) bytes for an export of "
                    + "\(facts.sizeBytes)")
        }
        guard readOnly || !facts.isReadOnly else {
            throw BlockError(
                .readOnly, "open for writing", on: uri, detail: "the server exports it read-only")
        }
        guard readOnly || facts.canFlush else {
            throw BlockError(
                .unsupported, "open for writing", on: uri,
                detail: "the server knows no flush: what is written could not be made durable")
        }
    }

    package func tryRead(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        try checkInside(
            ByteRange(offset: offset, lengthBytes: UInt64(destination.count)), "read")
        return destination.isEmpty ? .done : .refused
    }

    package func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool {
        try checkWritable(ByteRange(offset: offset, lengthBytes: UInt64(source.count)), "write")
        return source.isEmpty
    }

    package func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        try checkInside(
            ByteRange(offset: offset, lengthBytes: UInt64(destination.count)), "read")
        try await aligned.read(at: offset, into: destination)
    }

    package func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        try checkWritable(
            ByteRange(offset: offset, lengthBytes: UInt64(source.count)), "write")
        try await aligned.write(at: offset, from: source)
    }

    package func writeZeroes(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
        try checkWritable(range, "write zeroes")
        let whole = range.alignedInward(to: facts.blockBytes)
        guard facts.canZero, !whole.isEmpty else { return try await writeZeroBytes(range) }
        try await writeZeroBytes(ByteRange(offset: range.offset, end: whole.offset))
        for piece in whole.pieces(NBDLink.pieceBytes) {
            _ = try await link.perform(.writeZeroes(piece, mayUnmap: mayUnmap))
        }
        try await writeZeroBytes(ByteRange(offset: whole.end, end: range.end))
    }

    package func discard(_ range: ByteRange) async throws(BlockError) {
        try checkWritable(range, "discard")
        guard facts.canTrim else { return }
        for piece in range.alignedInward(to: facts.blockBytes).pieces(NBDLink.pieceBytes) {
            _ = try await link.perform(.trim(piece))
        }
    }

    package func flush() async throws(BlockError) {
        if isReadOnly { return }
        _ = try await link.perform(.flush)
    }

    package func extents(in range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
        try checkInside(range, "map")
        let asked = range.alignedOutward(to: facts.blockBytes).pieces(NBDLink.pieceBytes).first
        guard facts.knowsAllocation, let asked else {
            return range.isEmpty ? [] : [Extent(range: range, isZero: false, isHole: false)]
        }
        let answer = try await link.perform(.status(asked))
        var extents: [Extent] = []
        var position = asked.offset
        for entry in answer.entries where extents.count <= limit {
            let found = ByteRange(offset: position, lengthBytes: entry.lengthBytes)
            position = found.end
            extents.appendMerging(
                Extent(
                    range: found.intersection(range), isZero: entry.flags & 2 != 0,
                    isHole: entry.flags & 1 != 0))
        }
        guard !extents.isEmpty else {
            throw BlockError(
                .corrupt, "map", on: nodeName, range: range, detail: "the server says nothing of it"
            )
        }
        return Array(extents.prefix(max(limit, 1)))
    }

    /// Has every request fail from now on, those included that wait for a server that does not
    /// answer: for whoever needs the export no more, and must not wait for it. Does not wait.
    package func giveUp() { for connection in link.connections { connection.giveUp() } }

    package func close() async throws(BlockError) {
        var failure: BlockError?
        do throws(BlockError) { try await flush() } catch { failure = error }
        for connection in link.connections { await connection.stop() }
        if let failure { throw failure }
    }

    private func writeZeroBytes(_ range: ByteRange) async throws(BlockError) {
        let zeroes = BufferPool.shared.take(1 << 20)
        zeroes.slice.bytes.initializeMemory(as: UInt8.self, repeating: 0)
        for piece in range.pieces(UInt64(zeroes.capacityBytes)) {
            try await aligned.write(at: piece.offset, from: zeroes.prefix(Int(piece.lengthBytes)))
        }
    }

    private func checkWritable(_ range: ByteRange, _ operation: String) throws(BlockError) {
        try checkInside(range, operation)
        if isReadOnly { throw BlockError(.readOnly, operation, on: nodeName, range: range) }
    }
}
