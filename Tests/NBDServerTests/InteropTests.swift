import BlockCore
import Foundation
import Testing

@testable import NBDServer

// The tools that people use with NBD, against both faces of a device.
@Suite struct InteropTests {
    private let size = 3 << 20 + 1000
    // QEMU counts in sectors.
    private let sectorsSize = 3 << 20 + 1024

    private func export(_ answersNow: Bool, size: Int) throws -> DeviceExport {
        let memory = MemoryDevice(lengthBytes: size, answersNow: answersNow)
        let dirty = [
            ByteRange(offset: 0, lengthBytes: 65536),
            ByteRange(offset: 1 << 20, lengthBytes: 65536),
        ]
        return DeviceExport("vm 1", memory, description: "first disk", bitmaps: ["b0": dirty])
    }

    private func uri(_ fixture: ServerFixture, _ name: String = "vm%201") -> String {
        "nbd+unix:///\(name)?socket=\(fixture.socketPath)"
    }

    @Test func nbdinfoSeesWhatIsOffered() async throws {
        try await ServerFixture.run([export(true, size: size)]) { fixture in
            let text = try tool("/usr/bin/nbdinfo", "--json", uri(fixture))
            let root = try #require(
                JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any])
            #expect(root["protocol"] as? String == "newstyle-fixed")
            #expect(root["structured"] as? Bool == true)
            let exports = try #require(root["exports"] as? [[String: Any]])
            let info = try #require(exports.first)
            #expect(info["export-name"] as? String == "vm 1")
            #expect(info["description"] as? String == "first disk")
            #expect(info["export-size"] as? Int == size)
            #expect(
                info["contexts"] as? [String]
                    == ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b0"])
            for ability in [
                "cache", "df", "flush", "fua", "multi_conn", "trim", "zero", "fast_zero",
            ] {
                #expect(info["can_\(ability)"] as? Bool == true, "\(ability)")
            }
            #expect(info["is_read_only"] as? Bool == false)
            #expect(info["block_size_minimum"] as? Int == 1)
            #expect(info["block_size_preferred"] as? Int == 4096)
            #expect(info["block_size_maximum"] as? Int == 32 << 20)

            try fixture.exports.addExport(DeviceExport("other", MemoryDevice(lengthBytes: 512)))
            let list = try tool("/usr/bin/nbdinfo", "--list", uri(fixture, ""))
            #expect(list.contains("export=\"vm 1\"") && list.contains("export=\"other\""))
        }
    }

    @Test(arguments: [true, false])
    func nbdinfoMapsAllocationAndDirt(_ answersNow: Bool) async throws {
        try await ServerFixture.run([export(answersNow, size: size)]) { fixture in
            _ = try tool(
                "/usr/bin/qemu-io", "-f", "raw", "-c", "write -P 7 8192 4096", uri(fixture))
            let map = try tool("/usr/bin/nbdinfo", "--map", uri(fixture))
            #expect(
                rows(map) == [
                    "0 8192 3 hole,zero", "8192 4096 0 data", "12288 \(size - 12288) 3 hole,zero",
                ])
            let dirt = try tool("/usr/bin/nbdinfo", "--map=qemu:dirty-bitmap:b0", uri(fixture))
            #expect(
                rows(dirt) == [
                    "0 65536 1 dirty", "65536 983040 0 clean", "1048576 65536 1 dirty",
                    "1114112 \(size - 1_114_112) 0 clean",
                ])
        }
    }

    @Test(arguments: [true, false])
    func nbdcopyCopiesBothWays(_ answersNow: Bool) async throws {
        let export = try export(answersNow, size: size)
        try await ServerFixture.run([export]) { fixture in
            let source = fixture.folder + "/source"
            let copy = fixture.folder + "/copy"
            var data = Data(pattern(size))
            data.resetBytes(in: 500_000..<1_500_000)
            try data.write(to: URL(fileURLWithPath: source))
            _ = try tool("/usr/bin/nbdcopy", "--flush", source, uri(fixture))
            let memory = try #require(export.device as? MemoryDevice)
            #expect(memory.bytes(0, size) == Array(data))
            #expect(memory.counts.flushes > 0)
            _ = try tool("/usr/bin/nbdcopy", uri(fixture), copy)
            #expect(try Data(contentsOf: URL(fileURLWithPath: copy)) == data)
        }
    }

    @Test(arguments: [true, false])
    func qemuReadsWritesAndMaps(_ answersNow: Bool) async throws {
        let export = try export(answersNow, size: sectorsSize)
        try await ServerFixture.run([export]) { fixture in
            let source = fixture.folder + "/source"
            try Data(pattern(sectorsSize)).write(to: URL(fileURLWithPath: source))
            _ = try tool(
                "/usr/bin/qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source,
                uri(fixture))
            let compared = try tool(
                "/usr/bin/qemu-img", "compare", "-f", "raw", "-F", "raw", source, uri(fixture))
            #expect(compared.contains("identical"))
            let worked = try tool(
                "/usr/bin/qemu-io", "-f", "raw", "-c", "write -P 9 -f 70000 300", "-c",
                "write -z -u 1M 64k", "-c", "discard 2M 64k", "-c", "flush", "-c",
                "read -P 9 70000 300", "-c", "read -P 0 1M 64k", "-c", "read -P 0 2M 64k",
                uri(fixture))
            #expect(!worked.contains("failed") && !worked.contains("error"))

            let options =
                "driver=nbd,export=vm 1,server.type=unix,server.path=\(fixture.socketPath),"
                + "x-dirty-bitmap=qemu:dirty-bitmap:b0"
            let map = try tool(
                "/usr/bin/qemu-img", "map", "--output=json", "--image-opts", options)
            let rows = try #require(
                JSONSerialization.jsonObject(with: Data(map.utf8)) as? [[String: Any]])
            // In this view QEMU shows what is dirty as "no data".
            let dirty = rows.filter { $0["data"] as? Bool == false }
            #expect(dirty.compactMap { $0["start"] as? Int } == [0, 1 << 20])
            #expect(dirty.compactMap { $0["length"] as? Int } == [65536, 65536])
        }
    }

    @Test(arguments: [true, false])
    func libnbdInStrictModeFindsNoFault(_ answersNow: Bool) async throws {
        let export = try export(answersNow, size: size)
        try await ServerFixture.run([export]) { fixture in
            let output = try tool(
                "/usr/bin/python3", "-c", Self.strictScript, fixture.socketPath, "\(size)")
            #expect(output == "done\n")
        }
    }

    // Every command and flag, in both forms of replies, and the errors that must come back.
    private static let strictScript = """
        import errno, nbd, sys
        path, size = sys.argv[1], int(sys.argv[2])

        def fails(number, call, *arguments, **options):
            try:
                call(*arguments, **options)
            except nbd.Error as error:
                assert error.errnum == number, (error.errnum, number, error.string)
            else:
                raise AssertionError("no error")

        for structured in (True, False):
            h = nbd.NBD()
            h.set_strict_mode(0x1f)
            h.set_export_name("vm 1")
            h.set_request_structured_replies(structured)
            if structured:
                h.add_meta_context("base:allocation")
                h.add_meta_context("qemu:dirty-bitmap:b0")
                h.add_meta_context("nobody:knows")
            h.set_full_info(True)
            h.connect_unix(path)
            assert h.get_size() == size
            assert h.get_structured_replies_negotiated() == structured
            assert h.can_multi_conn() and h.can_cache() and h.can_fast_zero()
            assert h.can_df() == structured
            data = bytes(range(256)) * 1000
            h.pwrite(data, 1234)
            assert h.pread(len(data), 1234) == data
            h.pwrite(data, 4321, nbd.CMD_FLAG_FUA)
            h.zero(1000, 5000, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
            assert h.pread(1000, 5000) == bytes(1000)
            h.trim(65536, 65536, nbd.CMD_FLAG_FUA)
            h.cache(size, 0)
            h.flush()
            if structured:
                assert h.can_meta_context("qemu:dirty-bitmap:b0")
                assert not h.can_meta_context("nobody:knows")
                chunks = []
                def chunk(data, offset, status, error):
                    chunks.append((offset, status, len(data)))
                h.pread_structured(4096, 0, chunk, nbd.CMD_FLAG_DF)
                assert chunks == [(0, nbd.READ_DATA, 4096)], chunks
                seen = {}
                def extent(name, offset, entries, error):
                    seen[name] = (offset, entries)
                h.block_status(size, 0, extent)
                for offset, entries in seen.values():
                    assert offset == 0 and sum(entries[0::2]) == size, entries
                h.block_status(size, 0, extent, nbd.CMD_FLAG_REQ_ONE)
                assert all(len(entries) == 2 for _, entries in seen.values()), seen
                assert set(seen) == {"base:allocation", "qemu:dirty-bitmap:b0"}
            # What the library itself would stop, to see what the server says.
            h.set_strict_mode(0)
            fails(errno.EINVAL, h.pread, 512, size)
            fails(errno.ENOSPC, h.pwrite, bytes(512), size - 1)
            fails(errno.ENOSPC, h.zero, 512, size)
            fails(errno.EINVAL, h.trim, 512, size)
            fails(errno.ENOTSUP, h.zero, 512, 0, nbd.CMD_FLAG_FAST_ZERO)
            assert h.pread(1, size - 1) == b"\\0"
            h.shutdown()
        print("done")
        """

    // The columns of nbdinfo's table, apart from how it aligns them.
    private func rows(_ table: String) -> [String] {
        table.split(separator: "\n").map { line in
            line.split(separator: " ", omittingEmptySubsequences: true).joined(separator: " ")
        }
    }
}
