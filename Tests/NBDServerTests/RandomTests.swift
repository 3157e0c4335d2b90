import Foundation
import Testing

@testable import NBDServer

// Many requests at once over several connections, against a model of what the disk must hold.
@Suite struct RandomTests {
    @Test(arguments: [true, false])
    func theDiskHoldsWhatWasWritten(_ answersNow: Bool) async throws {
        let given = ProcessInfo.processInfo.environment["TIDEMARK_SEED"]
        let seed = given.flatMap(Int.init) ?? Int.random(in: 0..<1 << 31)
        print("RandomTests: TIDEMARK_SEED=\(seed)")
        let size = 6 << 20 + 321
        let memory = MemoryDevice(lengthBytes: size, answersNow: answersNow)
        try await ServerFixture.run([DeviceExport("disk", memory)]) { fixture in
            let output = try tool(
                "/usr/bin/python3", "-c", Self.script, fixture.socketPath, "\(size)", "\(seed)")
            #expect(output == "done\n", "seed \(seed)")
        }
        let counts = memory.counts
        #expect(counts.flushes > 0 && counts.discards > 0 && counts.unmaps.contains(true))
        #expect((answersNow ? counts.writesNow : counts.writes) > 100)
    }

    // Requests in flight never overlap, so the order in which they are carried out cannot matter.
    private static let script = """
        import nbd, random, sys
        path, size, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
        chance = random.Random(seed)
        model = bytearray(size)
        handles = []
        for _ in range(3):
            h = nbd.NBD()
            h.set_strict_mode(0x1f)
            h.set_export_name("disk")
            h.connect_unix(path)
            handles.append(h)

        flying = []

        def overlaps(start, end):
            return any(start < other[3] and other[2] < end for other in flying)

        def begin():
            kind = chance.choice(["read", "read", "write", "write", "zero", "trim", "flush"])
            longest = chance.choice([600, 5000, 66000, 70000, 1200000])
            count = chance.randint(1, longest)
            start = chance.randint(0, size - count)
            if overlaps(start, start + count):
                return
            h = chance.choice(handles)
            fua = nbd.CMD_FLAG_FUA if chance.random() < 0.1 else 0
            buffer = None
            if kind == "read":
                buffer = nbd.Buffer(count)
                cookie = h.aio_pread(buffer, start)
            elif kind == "write":
                data = chance.randbytes(count)
                model[start:start + count] = data
                buffer = nbd.Buffer.from_bytearray(bytearray(data))
                cookie = h.aio_pwrite(buffer, start, None, fua)
            elif kind == "zero":
                model[start:start + count] = bytes(count)
                flags = fua | (nbd.CMD_FLAG_NO_HOLE if chance.random() < 0.5 else 0)
                cookie = h.aio_zero(count, start, None, flags)
            elif kind == "trim":
                model[start:start + count] = bytes(count)
                cookie = h.aio_trim(count, start, None, fua)
            else:
                cookie = h.aio_flush()
            flying.append((h, cookie, start, start + count, kind, buffer))

        def reap():
            for h in handles:
                while h.poll(0) > 0:
                    pass
            left = []
            for item in flying:
                h, cookie, start, end, kind, buffer = item
                if not h.aio_command_completed(cookie):
                    left.append(item)
                elif kind == "read":
                    assert buffer.to_bytearray() == model[start:end], (seed, start, end)
            flying[:] = left

        for step in range(1500):
            begin()
            while len(flying) >= 24:
                reap()
            if step % 8 == 0:
                reap()
        while flying:
            reap()
        whole = b"".join(
            handles[0].pread(min(1 << 20, size - at), at) for at in range(0, size, 1 << 20))
        assert whole == bytes(model), seed
        for h in handles:
            h.shutdown()
        print("done")
        """
}
