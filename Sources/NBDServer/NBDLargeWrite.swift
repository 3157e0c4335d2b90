import BlockCore
import Glibc

// A large payload is written in pieces while the client is still sending the rest of it. A Unix
// socket holds some 200 KiB: a server that first receives all and then writes all lets the client
// wait while it writes, and waits for the client while it receives.
//
// Pieces are not small, since each is a write of its own, and much less than what the socket holds.
// All but the last end at a multiple of a page of the disk, so that no page is written twice.
//
// To the device it is one write (`GradualWrite`), which a freeze does not cut in two. So that a client
// which stops in the middle holds up nobody else, that ends after a while; what the client sends then
// is received to its end and written once more, whole.

/// A write whose payload is on its way.
struct NBDLargeWrite {
    enum Outcome {
        case written
        /// All of the payload is here, and this is left to do.
        case later(NBDLaterRequest.Work)
        case failed(BlockError, unreceivedBytes: Int)
        /// The client went away.
        case lost
    }

    static let pieceBytesMin = 64 << 10
    /// How long a client may take to send what it has begun before others go first.
    static let patience = Duration.milliseconds(250)
    private static let alignmentBytes: UInt64 = 4096

    private let request: NBDRequest
    private let payload: BufferSlice
    private let socket: NBDSocket
    private var received: Int

    /// Of what is to be in `payload` the first `received` bytes are there.
    init(_ request: NBDRequest, _ payload: BufferSlice, received: Int, socket: NBDSocket) {
        self.request = request
        self.payload = payload
        self.received = received
        self.socket = socket
    }

    /// Receives the payload, and writes it to `device` or says what is left to do.
    mutating func run(on device: any BlockDevice) -> Outcome {
        // What is here already is one piece, and what the device refuses is others' to write.
        guard received < payload.count, let write = try? device.tryBeginWrite(request.range) else {
            guard receiveRest() else { return .lost }
            return writeWhole(to: device)
        }
        return run(write)
    }

    private func writeWhole(to device: any BlockDevice) -> Outcome {
        do throws(BlockError) {
            return try device.tryWrite(at: request.offset, from: payload.readOnlyBytes)
                ? .written : .later(.write(payload))
        } catch {
            return .failed(error, unreceivedBytes: 0)
        }
    }

    private mutating func run(_ write: any GradualWrite) -> Outcome {
        let deadline = ContinuousClock.now + Self.patience
        var written = 0
        var isRefused = false
        while true {
            let end = isRefused ? written : pieceEnd(after: written)
            if end > written {
                do throws(BlockError) {
                    let piece = payload.slice(written, end - written).readOnlyBytes
                    isRefused = try !write.tryWrite(
                        at: request.offset + UInt64(written), from: piece)
                    if !isRefused { written = end }
                } catch {
                    write.end()
                    return .failed(error, unreceivedBytes: payload.count - received)
                }
            }
            if received == payload.count { break }
            switch socket.receiveSteadily(into: rest.bytes, until: deadline) {
            case .bytes(let count): received += count
            case .ended:
                write.end()
                return .lost
            case .late:
                write.end()
                return receiveRest() ? .later(.write(payload)) : .lost
            }
        }
        if isRefused { return .later(.restOfWrite(payload, doneBytes: written, write)) }
        write.end()
        return .written
    }

    private var rest: BufferSlice { payload.slice(received, payload.count - received) }

    private mutating func receiveRest() -> Bool {
        let rest = rest
        guard rest.count > 0 else { return true }
        received = payload.count
        return socket.receive(into: rest.bytes, isWhole: true) == rest.count
    }

    /// Up to where the payload can be written now; `written` if there is too little to begin with.
    func pieceEnd(after written: Int) -> Int {
        if received == payload.count { return received }
        let end = received - Int((request.offset + UInt64(received)) % Self.alignmentBytes)
        return end - written >= Self.pieceBytesMin ? end : written
    }
}
