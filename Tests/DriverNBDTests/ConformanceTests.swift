import BlockCore
import DriverNBD
import TestSupport
import Testing

/// The shared suite over servers of several kinds.
@Suite(.serialized) struct NBDConformanceTests {
    @Test(arguments: NBDServerKind.allCases)
    func exportsConform(kind: NBDServerKind) async throws {
        let served = try ServedImage(kind)
        var random = Seed.generator("NBD \(kind)")
        let content = random.bytes(kind == .nbdkitBlocks ? 303_104 : 300_032)
        let fixture = DeviceFixture(
            "NBD \(kind)", content: content,
            make: {
                try served.serve(content)
                return try served.open()
            }, reopen: { try served.open() })
        try await BlockDeviceConformance(fixture).runAll()
        served.stop()
    }

    @Test func holesAreSeenAndLargeRequestsAreCut() async throws {
        let served = try ServedImage(.nbdkit)
        var content = [UInt8](repeating: 0, count: 80 << 20)
        for index in 0..<4096 { content[(40 << 20) + index] = 7 }
        try served.serve(content)
        try Tool.check(["fallocate", "--dig-holes", served.image])
        let device = try served.open()
        let extents = try await device.allExtents(
            in: ByteRange(offset: 0, lengthBytes: device.lengthBytes))
        #expect(extents.filter { !$0.isZero }.map(\.range.offset) == [40 << 20])
        // More than any server takes at once.
        let bytes = try await device.bytes(at: 1 << 20, 70 << 20)
        #expect(bytes == Array(content[1 << 20..<71 << 20]))
        try await device.put([UInt8](repeating: 9, count: 33 << 20), at: 3)
        try await device.close()
        served.stop()
        let now = try readFile(served.image)
        #expect(now[2] == 0 && now[3] == 9 && now[(33 << 20) + 2] == 9 && now[(33 << 20) + 3] == 0)
    }

    @Test func anExportByTCPIsTheSame() async throws {
        let served = try ServedImage(.nbdkit)
        try writeFile(served.image, [UInt8](repeating: 8, count: 1 << 20))
        // A relay from a port to the socket, so that the port can be one that is free.
        try served.start()
        let relay = try ServerProcess(
            ["/usr/bin/python3", "-c", Self.relay, served.socket, served.socket + ".port"],
            socket: served.socket + ".port")
        let port = String(decoding: try readFile(served.socket + ".port"), as: UTF8.self)
        let device = try NBDDevice.open(uri: "nbd://127.0.0.1:\(port)/", readOnly: false)
        try await device.put([1, 2, 3], at: 777)
        #expect(try await device.bytes(at: 776, 5) == [8, 1, 2, 3, 8])
        try await device.close()
        relay.stop()
        served.stop()
    }

    private static let relay = """
        import os, socket, sys, threading
        listener = socket.create_server(('127.0.0.1', 0))
        def pump(a, b):
            while data := a.recv(65536): b.sendall(data)
            b.shutdown(socket.SHUT_WR)
        def serve():
            while True:
                client = listener.accept()[0]
                server = socket.socket(socket.AF_UNIX); server.connect(sys.argv[1])
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()
        with open(sys.argv[2] + '.new', 'w') as file: file.write(str(listener.getsockname()[1]))
        os.rename(sys.argv[2] + '.new', sys.argv[2])
        serve()
        """

    @Test func whatCannotBeServedIsRefusedByName() throws {
        let served = try ServedImage(.nbdkit)
        let absent = #expect(throws: BlockError.self) { try served.open() }
        #expect(absent?.kind == .notFound && absent?.place == served.uri)
        let foreign = #expect(throws: BlockError.self) {
            try NBDDevice.open(uri: "nbds://localhost/", readOnly: true)
        }
        #expect(foreign?.kind == .unsupported)

        let readOnly = try ServerProcess(
            ["nbdkit", "-f", "-r", "-U", served.socket, "memory", "1M"], socket: served.socket)
        let writing = #expect(throws: BlockError.self) { try served.open() }
        #expect(writing?.kind == .readOnly)
        #expect(try served.open(readOnly: true).isReadOnly)
        readOnly.stop()

        let unflushable = try ServerProcess(
            [
                "nbdkit", "-f", "-U", served.socket, "eval", "get_size=echo 1048576",
                "pread=head -c $3 /dev/zero", "pwrite=cat >/dev/null",
            ], socket: served.socket)
        let withoutFlush = #expect(throws: BlockError.self) { try served.open() }
        #expect(withoutFlush?.description.contains("no flush") == true)
        unflushable.stop()
    }
}
