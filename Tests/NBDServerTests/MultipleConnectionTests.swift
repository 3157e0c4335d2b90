import BlockCore
import Testing

@testable import NBDServer

// "Multiple connections" is a promise: a flush on one covers what any of them had acknowledged.
@Suite struct MultipleConnectionTests {
    @Test(arguments: [true, false], ["flush", "fua"])
    func aFlushCoversEveryConnection(_ answersNow: Bool, _ way: String) async throws {
        let memory = MemoryDevice(lengthBytes: 8 << 20, answersNow: answersNow)
        try await ServerFixture.run([DeviceExport("disk", memory)]) { fixture in
            let output = try tool(
                "/usr/bin/python3", "-c", Self.script, fixture.socketPath, way)
            #expect(output == "done\n")
            #expect(memory.counts.flushes == 1)
            #expect(memory.counts.unflushedBytes == 0)
            // The model can tell the difference.
            let output2 = try tool(
                "/usr/bin/python3", "-c", Self.script, fixture.socketPath, "nothing")
            #expect(output2 == "done\n")
            #expect(memory.counts.unflushedBytes > 0)
        }
    }

    private static let script = """
        import nbd, sys
        path, way = sys.argv[1:]
        handles = []
        for index in range(3):
            h = nbd.NBD()
            h.set_strict_mode(0x1f)
            h.set_export_name("disk")
            h.connect_unix(path)
            assert h.can_multi_conn()
            handles.append(h)
        for index, h in enumerate(handles[:2]):
            h.pwrite(bytes([index + 1]) * 70000, index * 1000000)
            h.pwrite(bytes([index + 3]) * 500, index * 1000000 + 300000)
        if way == "flush":
            handles[2].flush()
        elif way == "fua":
            handles[2].pwrite(b"x" * 512, 4 << 20, nbd.CMD_FLAG_FUA)
        assert handles[2].pread(70000, 1000000) == bytes([2]) * 70000
        for h in handles:
            h.shutdown()
        print("done")
        """
}
