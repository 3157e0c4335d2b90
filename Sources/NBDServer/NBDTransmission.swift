import BlockCore
import CLinux
import Glibc

// The transmission phase, on the connection's own thread.
//
// The thread takes what the socket has, parses all of it, and answers each request by the device's
// now face: a read lands in the output buffer behind its header, a write's payload is handed over
// where it was received. Replies are sent when the input runs dry, when the output is full, and
// before the thread waits for anything. What the now face refuses becomes an `NBDLaterRequest`, and
// what it has begun joins the connection's `NBDBegunReads`.
//
// Payloads above `smallBytesMax` take no detour through the buffers: a read goes from a recycled
// page-aligned buffer to the socket, with the output buffer in the same call; a write is received
// into such a buffer, and written piece by piece while the client sends the rest (`NBDLargeWrite`). After a large
// write only the next header is received, so that the payload of the write that probably follows
// can go straight to its place.

/// Serves the requests of one connection until it ends.
struct NBDTransmission: ~Copyable {
    /// Why a connection ends.
    enum Ending: Error, Equatable {
        /// The client said so, or went away between two requests, or the server ends it.
        case finished
        /// The client went away with a request half sent, or does not take its replies.
        case lost
        /// What came is not NBD, or nothing that the next request could be found behind.
        case badMagic
    }

    /// What the now face made of a request.
    private enum Attempt {
        case done
        /// A read whose bytes are on their way.
        case begun(doneBytes: Int)
        case refused
        case failed(BlockError)
    }

    /// Payloads up to this size go through the connection's buffers.
    static let smallBytesMax = 64 << 10
    private static let bufferBytes = 256 << 10
    private static let spareBytesMax = 4 << 20

    private let session: NBDSession
    private let device: any BlockDevice
    private let codec: NBDReplyCodec
    private let mustFinish: () -> Bool
    private var input = NBDInputBuffer(capacityBytes: bufferBytes)
    private var output = NBDOutputBuffer(capacityBytes: bufferBytes)
    private var spare: AlignedBuffer?
    private var receiveBytesMax = bufferBytes
    private var gathering = NBDGathering()
    /// Since the thread last waited.
    private var answered = (requests: 0, bytes: 0)
    private var clientRanDry = false

    /// `mustFinish` says whether requests that were not received yet are no longer wanted.
    init(_ session: NBDSession, mustFinish: @escaping () -> Bool) {
        self.session = session
        self.device = session.device
        self.codec = session.codec
        self.mustFinish = mustFinish
    }

    /// Serves requests; returns why it ended. Requests that were handed over may be in flight.
    mutating func run() -> Ending {
        do throws(Ending) {
            while true { try serve(try nextRequest()) }
        } catch {
            // Replies to what came before the end are still owed.
            do throws(Ending) { try flush() } catch {}
            return error
        }
    }

    private mutating func nextRequest() throws(Ending) -> NBDRequest {
        if input.count == 0 {
            try flush()
            gather()
        }
        if input.count < codec.requestBytes { try fill(codec.requestBytes) }
        guard let request = codec.request(at: input.bytes.baseAddress!) else { throw .badMagic }
        input.consume(codec.requestBytes)
        answered.requests += 1
        answered.bytes += codec.requestBytes
        if request.hasPayload { answered.bytes += Int(truncatingIfNeeded: request.lengthBytes) }
        return request
    }

    // Has at least `count` bytes in the input.
    private mutating func fill(_ count: Int) throws(Ending) {
        while input.count < count {
            try flush()
            if mustFinish() { throw .finished }
            guard input.receive(from: session.socket, limitBytes: receiveBytesMax) else {
                throw input.count == 0 ? .finished : .lost
            }
        }
        receiveBytesMax = Self.bufferBytes
    }

    // Lets requests come in, if the client has a queue of them.
    private mutating func gather() {
        gathering.learn(
            requests: answered.requests, bytes: answered.bytes, clientRanDry: clientRanDry)
        if answered.requests > 0 { session.export.requestsAnswered(answered.requests) }
        answered = (0, 0)
        clientRanDry = false
        guard gathering.pauseNanoseconds > 0 else { return }
        clinux_sleep_precisely(gathering.pauseNanoseconds)
        clientRanDry = session.socket.untakenBytes == 0
    }

    private mutating func serve(_ request: NBDRequest) throws(Ending) {
        guard let command = NBDCommand(rawValue: request.type) else {
            return try refuse(
                request, NBDFailure(.invalid, "unknown command \(request.type)"))
        }
        if command == .blockStatus { return try serveStatus(request) }
        if let refusal = session.rules.refusal(of: request, command) {
            return try refuse(request, refusal)
        }
        // The length of a command without a range was not checked and means nothing.
        let count = Int(truncatingIfNeeded: request.lengthBytes)
        let isSmall = count <= Self.smallBytesMax
        switch command {
        case .disconnect: throw .finished
        case .flush: try handOver(request, .flush)
        case _ where count == 0: try succeed(request)
        case .blockStatus: preconditionFailure("served before")
        case .read: try isSmall ? readSmall(request, count) : readLarge(request, count)
        case .write: try isSmall ? writeSmall(request, count) : writeLarge(request, count)
        case .trim: try handOver(request, .discard)
        case .cache: try handOver(request, .cache)
        case .writeZeroes:
            let mayUnmap = !request.flags.contains(.noHole)
            guard
                !request.flags.contains(.fastZero)
                    || device.canZeroFast(request.range, mayUnmap: mayUnmap)
            else {
                return try fail(
                    request, NBDFailure(.unsupported, "zeroes may take as long as data"))
            }
            try handOver(request, .writeZeroes(mayUnmap: mayUnmap))
        }
    }

    // A request for block status may have a payload that says how long its range really is.
    private mutating func serveStatus(_ header: NBDRequest) throws(Ending) {
        var request = header
        var contextIDs: [UInt32]?
        if header.hasPayload {
            let count = Int(header.lengthBytes)
            guard count <= NBDStatusPayload.bytes(contextCount: session.contexts.count) else {
                return try refuse(header, NBDFailure(.invalid, "too many contexts"))
            }
            try fill(count)
            let payload = NBDStatusPayload(UnsafeRawBufferPointer(rebasing: input.bytes[..<count]))
            input.consume(count)
            request.hasPayload = false
            guard let payload else {
                return try fail(request, NBDFailure(.invalid, "malformed payload"))
            }
            request.lengthBytes = payload.lengthBytes
            contextIDs = payload.contextIDs
        }
        if let refusal = session.rules.refusal(of: request, .blockStatus) {
            return try fail(request, refusal)
        }
        guard let query = session.statusQuery(contextIDs) else {
            return try fail(
                request, NBDFailure(.invalid, "a context that was not negotiated"))
        }
        try handOver(request, .blockStatus(query))
    }

    private mutating func readSmall(_ request: NBDRequest, _ count: Int) throws(Ending) {
        let headBytes = codec.readHeadBytes
        try makeRoom(headBytes + count)
        let target = UnsafeMutableRawBufferPointer(start: output.end + headBytes, count: count)
        switch tryRead(request, into: target) {
        case .done:
            codec.putReadHead(request, at: output.end)
            output.advance(headBytes + count)
        case .begun(let doneBytes):
            let slice = BufferPool.shared.take(count).prefix(count)
            slice.bytes.copyMemory(from: UnsafeRawBufferPointer(rebasing: target[..<doneBytes]))
            try awaitRead(request, .read(slice, doneBytes: doneBytes))
        case .refused:
            let slice = BufferPool.shared.take(count).prefix(count)
            try handOver(request, .read(slice, doneBytes: 0))
        case .failed(let error):
            try failByDevice(request, error)
        }
    }

    private mutating func readLarge(_ request: NBDRequest, _ count: Int) throws(Ending) {
        let buffer = takeBuffer(count)
        switch tryRead(request, into: buffer.prefix(count).bytes) {
        case .done:
            try makeRoom(codec.readHeadBytes)
            codec.putReadHead(request, at: output.end)
            output.advance(codec.readHeadBytes)
            try flush(with: buffer.prefix(count).readOnlyBytes)
            keep(buffer)
        case .begun(let doneBytes):
            try handOver(request, .read(buffer.prefix(count), doneBytes: doneBytes))
        case .refused:
            try handOver(request, .read(buffer.prefix(count), doneBytes: 0))
        case .failed(let error):
            keep(buffer)
            try failByDevice(request, error)
        }
    }

    private mutating func writeSmall(_ request: NBDRequest, _ count: Int) throws(Ending) {
        try fill(count)
        let payload = UnsafeRawBufferPointer(rebasing: input.bytes[..<count])
        switch tryWrite(request, from: payload) {
        case .done:
            input.consume(count)
            try finishWrite(request)
        case .begun, .refused:
            let slice = BufferPool.shared.take(count).prefix(count)
            slice.bytes.copyMemory(from: payload)
            input.consume(count)
            try handOver(request, .write(slice))
        case .failed(let error):
            input.consume(count)
            try failByDevice(request, error)
        }
    }

    private mutating func writeLarge(_ request: NBDRequest, _ count: Int) throws(Ending) {
        let buffer = takeBuffer(count)
        let payload = buffer.prefix(count)
        let early = min(input.count, count)
        payload.bytes.copyMemory(from: UnsafeRawBufferPointer(rebasing: input.bytes[..<early]))
        input.consume(early)
        if early < count { try flush() }
        receiveBytesMax = codec.requestBytes
        var write = NBDLargeWrite(request, payload, received: early, socket: session.socket)
        switch write.run(on: device) {
        case .written:
            keep(buffer)
            try finishWrite(request)
        case .later(let work):
            try handOver(request, work)
        case .failed(let error, let unreceivedBytes):
            keep(buffer)
            try skip(unreceivedBytes)
            try failByDevice(request, error)
        case .lost:
            throw .lost
        }
    }

    private mutating func finishWrite(_ request: NBDRequest) throws(Ending) {
        if request.flags.contains(.fua) {
            try handOver(request, .flush)
        } else {
            try succeed(request)
        }
    }

    private func tryRead(
        _ request: NBDRequest, into target: UnsafeMutableRawBufferPointer
    ) -> Attempt {
        do throws(BlockError) {
            return switch try device.tryRead(at: request.offset, into: target) {
            case .done: .done
            case .begun(let doneBytes): .begun(doneBytes: doneBytes)
            case .refused: .refused
            }
        } catch {
            return .failed(error)
        }
    }

    private func tryWrite(_ request: NBDRequest, from source: UnsafeRawBufferPointer) -> Attempt {
        do throws(BlockError) {
            return try device.tryWrite(at: request.offset, from: source) ? .done : .refused
        } catch {
            return .failed(error)
        }
    }

    private mutating func handOver(
        _ request: NBDRequest, _ work: NBDLaterRequest.Work
    ) throws(Ending) {
        session.start(try credited(request, work))
    }

    private mutating func awaitRead(
        _ request: NBDRequest, _ work: NBDLaterRequest.Work
    ) throws(Ending) {
        session.startBegun(try credited(request, work))
    }

    // A request to be answered by others, with its credits taken.
    private mutating func credited(
        _ request: NBDRequest, _ work: NBDLaterRequest.Work
    ) throws(Ending) -> NBDLaterRequest {
        let later = NBDLaterRequest(request: request, work: work)
        if !session.credits.tryTake(bytes: later.creditBytes) {
            try flush()
            if session.socket.isHungUp { throw .lost }
            session.credits.take(bytes: later.creditBytes)
        }
        return later
    }

    private mutating func succeed(_ request: NBDRequest) throws(Ending) {
        try makeRoom(codec.successBytes)
        codec.putSuccess(request, at: output.end)
        output.advance(codec.successBytes)
    }

    private mutating func failByDevice(
        _ request: NBDRequest, _ error: BlockError
    ) throws(Ending) {
        let failure = NBDFailure(error)
        session.report(failure, of: request)
        try fail(request, failure)
    }

    private mutating func fail(_ request: NBDRequest, _ failure: NBDFailure) throws(Ending) {
        try append(codec.failure(failure, request))
    }

    // Fails a request whose payload, if it has one, was not received yet.
    private mutating func refuse(_ request: NBDRequest, _ failure: NBDFailure) throws(Ending) {
        if request.hasPayload { try skip(Int(request.lengthBytes)) }
        try fail(request, failure)
    }

    private mutating func append(_ reply: [UInt8]) throws(Ending) {
        try makeRoom(reply.count)
        reply.withUnsafeBytes {
            output.end.copyMemory(from: $0.baseAddress!, byteCount: $0.count)
        }
        output.advance(reply.count)
    }

    // Takes `count` bytes off the stream.
    private mutating func skip(_ count: Int) throws(Ending) {
        var left = count
        while left > 0 {
            if input.count == 0 { try fill(1) }
            let piece = min(left, input.count)
            input.consume(piece)
            left -= piece
        }
    }

    private mutating func makeRoom(_ count: Int) throws(Ending) {
        if output.roomBytes < count { try flush() }
    }

    private mutating func flush(with payload: UnsafeRawBufferPointer? = nil) throws(Ending) {
        guard output.count > 0 else { return }
        let isSent = session.channel.send(output.bytes, payload)
        output.removeAll()
        if !isSent { throw .lost }
    }

    private mutating func takeBuffer(_ count: Int) -> AlignedBuffer {
        if let buffer = spare, buffer.capacityBytes >= count, buffer.capacityBytes / 4 <= count {
            spare = nil
            return buffer
        }
        return BufferPool.shared.take(count)
    }

    private mutating func keep(_ buffer: AlignedBuffer) {
        if buffer.capacityBytes <= Self.spareBytesMax { spare = buffer }
    }
}
