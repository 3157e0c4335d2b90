import BlockCore
import Synchronization

// A connection's life, on its own thread from beginning to end:
//
//   handshake (with a deadline) → joins its export's set → transmission → waits until what was
//   handed over is answered or dropped → leaves the set.
//
// The export is told of the end only then, so a device is never closed under a request.

/// One client of a server.
final class NBDConnection: Sendable {
    private let socket: NBDSocket
    private let table: NBDExportTable
    private let limits: NBDLimits
    private let report: @Sendable (String) -> Void
    private let name: String
    private let places: NBDPlaces
    /// When the client was accepted.
    let began = ContinuousClock.now
    private let isFinishing = Atomic(false)
    private let isSpeaking = Atomic(false)
    private let session = Mutex<NBDSession?>(nil)

    init(
        _ socket: NBDSocket, _ table: NBDExportTable, _ limits: NBDLimits, _ places: NBDPlaces,
        name: String, report: @escaping @Sendable (String) -> Void
    ) {
        self.socket = socket
        self.table = table
        self.limits = limits
        self.places = places
        self.report = report
        self.name = name
    }

    /// Starts the connection's thread; `ended` is called there when everything is over. Throws if
    /// there is no thread to be had; then the connection never began.
    func start(ended: @escaping @Sendable (NBDConnection) -> Void) throws(BlockError) {
        try HostThread.tryStart(name: name) { [self] in
            run()
            ended(self)
        }
    }

    /// Whether the client has sent anything.
    var hasSpoken: Bool { isSpeaking.load(ordering: .relaxed) }

    /// Serves the client until it goes, it breaks the protocol or the connection is ended.
    func run() {
        defer { places.leave(self) }
        if let (agreement, answer) = negotiate() {
            serve(agreement, answer)
        }
        socket.shutdownAll()
    }

    /// Takes no more requests, but answers what was received.
    func finish() {
        isFinishing.store(true, ordering: .relaxed)
        socket.shutdownReceiving()
    }

    /// Cuts the client off; what is in flight still has to complete.
    func cut() {
        isFinishing.store(true, ordering: .relaxed)
        session.withLock { $0?.abandon() }
        socket.shutdownAll()
    }

    // The last answer is not sent yet: it is a promise that the export is there.
    private func negotiate() -> (NBDAgreement, answer: [UInt8])? {
        let deadline = ContinuousClock.now + .seconds(limits.handshakeSeconds)
        var handshake = NBDHandshake(table, optionsMax: limits.optionsMax) { [self] in
            places.becomeClient(self)
        }
        let input = UnsafeMutableRawBufferPointer.allocate(
            byteCount: NBDHandshake.payloadBytesMax, alignment: 8)
        defer { input.deallocate() }
        guard socket.send(NBDOptionReply.greeting(), until: deadline) else { return nil }
        while true {
            let piece = UnsafeMutableRawBufferPointer(rebasing: input[..<handshake.neededBytes])
            guard socket.receive(into: piece, until: deadline) else {
                if ContinuousClock.now >= deadline {
                    report("\(name): no export chosen within \(limits.handshakeSeconds) s, closed")
                }
                return nil
            }
            isSpeaking.store(true, ordering: .relaxed)
            var reply: [UInt8] = []
            let outcome = handshake.consume(UnsafeRawBufferPointer(piece), reply: &reply)
            if case .transmit(let agreement) = outcome { return (agreement, reply) }
            if !reply.isEmpty && !socket.send(reply, until: deadline) { return nil }
            if case .close(let reason) = outcome {
                if let reason { report("\(name): closed in the handshake: \(reason)") }
                return nil
            }
        }
    }

    private func serve(_ agreement: NBDAgreement, _ answer: [UInt8]) {
        let connections = agreement.entry.connections
        guard connections.insert(self) else { return }
        defer { connections.remove(self) }
        let export = agreement.entry.export
        export.connectionOpened()
        defer { export.connectionClosed() }

        let credits = NBDCredits(limits, places.sharedMemory)
        let session = NBDSession(agreement, socket, credits, name: name)
        self.session.withLock { $0 = session }
        defer { self.session.withLock { $0 = nil } }
        guard answer.withUnsafeBytes({ session.channel.send($0) }) else { return }
        var transmission = NBDTransmission(session) { [self] in
            isFinishing.load(ordering: .relaxed)
        }
        let ending = transmission.run()
        if ending == .badMagic {
            report("\(name): closed: what came for \(export.name) is not a request")
        }
        if ending != .finished || socket.isHungUp { session.abandon() }
        session.credits.waitUntilIdle()
        session.channel.end()
    }
}
