import Foundation
import Glibc
import Testing

@testable import NBDServer

// One session with each tool that people use, against real images of both formats.
@Suite(.serialized) struct ToolSessionTests {
    private static let formats = ["raw", "qcow2"]

    @Test(arguments: formats) func nbdinfo(_ format: String) async throws {
        try await RealDisk.serve(format) { disk in
            func info(_ arguments: String...) throws -> String {
                try tool(["/usr/bin/nbdinfo"] + arguments + [disk.uri])
            }
            #expect(try info("--size") == "\(RealDisk.sizeBytes)\n")
            for ability in [
                "cache", "df", "fast-zero", "flush", "fua", "multi-conn", "read", "trim", "write",
                "zero",
            ] { _ = try info("--can", ability) }
            let json = try #require(
                JSONSerialization.jsonObject(with: Data(info("--json").utf8)) as? [String: Any])
            let export = try #require((json["exports"] as? [[String: Any]])?.first)
            #expect(export["is_read_only"] as? Bool == false)
            #expect(export["description"] as? String == "a \(format) disk")
            #expect((export["contexts"] as? [String])?.count == 3)
            _ = try tool(["/usr/bin/qemu-io", "-f", "raw", "-c", "write 1M 64k", disk.uri])
            #expect(try columns(info("--map")).contains("1048576 65536 0 data"))
            #expect(try info("--map", "--totals").contains("hole"))
            let depths = try columns(info("--map=qemu:allocation-depth"))
            #expect(
                depths == [
                    "0 1048576 0 absent", "1048576 65536 1 local",
                    "1114112 7274496 0 absent",
                ])
            #expect(
                try columns(info("--map=qemu:dirty-bitmap:b0"))
                    == ["0 2097152 0 clean", "2097152 1048576 1 dirty", "3145728 5242880 0 clean"])
            #expect(try info("--list").contains("export=\"disk\""))
        }
    }

    @Test(arguments: formats) func nbdcopy(_ format: String) async throws {
        try await RealDisk.serve(format, expected: "source") { disk in
            let source = try disk.makeFile("source", seed: 3)
            for connections in ["1", "4"] {
                _ = try tool([
                    "/usr/bin/nbdcopy", "--flush", "--connections=\(connections)",
                    "--requests=16", source, disk.uri,
                ])
                _ = try tool([
                    "/usr/bin/nbdcopy", "--connections=\(connections)", disk.uri,
                    disk.path("copy"),
                ])
                #expect(
                    FileManager.default.contentsEqual(atPath: source, andPath: disk.path("copy")))
            }
            // From an export to an export, with holes.
            let memory = MemoryDevice(lengthBytes: RealDisk.sizeBytes)
            try disk.fixture.exports.addExport(DeviceExport("other", memory))
            let other = disk.uri.replacingOccurrences(of: "/disk", with: "/other")
            _ = try tool(["/usr/bin/nbdcopy", disk.uri, other])
            #expect(
                try Data(memory.bytes(0, RealDisk.sizeBytes))
                    == Data(contentsOf: URL(fileURLWithPath: source)))
        }
    }

    @Test(
        .enabled(
            if: access("/dev/fuse", R_OK | W_OK) == 0,
            "nbdfuse is NOT tested: /dev/fuse cannot be opened here"),
        arguments: formats)
    func nbdfuse(_ format: String) async throws {
        try await RealDisk.serve(format, expected: "source") { disk in
            let source = try disk.makeFile("source", seed: 5)
            let folder = disk.path("mount")
            try FileManager.default.createDirectory(
                atPath: folder, withIntermediateDirectories: true)
            let mount = Process()
            mount.executableURL = URL(fileURLWithPath: "/usr/bin/nbdfuse")
            mount.arguments = [folder, disk.uri]
            try mount.run()
            defer { mount.waitUntilExit() }
            defer { _ = try? tool(["/usr/bin/fusermount3", "-u", folder]) }
            try await waitUntil {
                FileManager.default.fileExists(atPath: folder + "/nbd") || !mount.isRunning
            }
            let file = folder + "/nbd"
            _ = try tool(["/bin/dd", "if=\(source)", "of=\(file)", "bs=64k", "conv=notrunc,fsync"])
            #expect(FileManager.default.contentsEqual(atPath: source, andPath: file))
            _ = try tool(["/usr/bin/fallocate", "-p", "-o", "4M", "-l", "1M", file])
            _ = try tool(["/usr/bin/fallocate", "-p", "-o", "4M", "-l", "1M", source])
        }
    }

    @Test(arguments: formats) func fio(_ format: String) async throws {
        try await RealDisk.serve(format) { disk in
            for (pattern, size) in [("randwrite", "4k"), ("write", "192k"), ("randrw", "1000")] {
                let output = try tool([
                    "/usr/bin/fio", "--name=session", "--ioengine=nbd", "--uri=\(disk.uri)",
                    "--verify_state_save=0",
                    "--rw=\(pattern)", "--bs=\(size)", "--size=\(RealDisk.sizeBytes)",
                    "--io_size=4M", "--iodepth=16", "--verify=crc32c", "--do_verify=1",
                    "--fsync=64", "--output-format=terse",
                ])
                #expect(!output.contains("error"), "\(output)")
            }
        }
    }

    @Test(arguments: formats) func qemuIO(_ format: String) async throws {
        try await RealDisk.serve(format) { disk in
            let output = try tool(
                ["/usr/bin/qemu-io", "-f", "raw"]
                    + [
                        "write -P 1 0 64k", "aio_write -P 2 64k 256k", "aio_write -P 3 1M 512",
                        "aio_flush", "write -f -P 4 1000k 4k", "write -z 128k 64k",
                        "write -z -u 3M 1M", "discard 0 4k", "flush", "read -P 2 64k 64k",
                        "read -P 0 128k 64k", "read -P 2 192k 128k", "read -P 4 1000k 4k",
                        "read -P 3 1M 512", "read -P 0 3M 1M", "length",
                    ].flatMap { ["-c", $0] } + [disk.uri])
            #expect(!output.contains("failed") && output.contains("8 MiB"), "\(output)")
            let wrong = try tool([
                "/bin/sh", "-c", "qemu-io -f raw -c 'read -P 9 64k 64k' \"$0\" || true", disk.uri,
            ])
            #expect(wrong.contains("Pattern verification failed"))
        }
    }

    @Test(arguments: formats) func qemuImg(_ format: String) async throws {
        try await RealDisk.serve(format, expected: "source") { disk in
            let source = try disk.makeFile("source", seed: 7)
            func image(_ arguments: String...) throws -> String {
                try tool(["/usr/bin/qemu-img"] + arguments)
            }
            _ = try image("convert", "-n", "-f", "raw", "-O", "raw", source, disk.uri)
            #expect(
                try image("compare", "-f", "raw", "-F", "raw", source, disk.uri)
                    .contains("identical"))
            #expect(try image("info", disk.uri).contains("virtual size: 8 MiB"))
            let map = try image("map", "-f", "raw", "--output=json", disk.uri)
            let rows = try #require(
                JSONSerialization.jsonObject(with: Data(map.utf8)) as? [[String: Any]])
            #expect(rows.contains { $0["zero"] as? Bool == true && $0["data"] as? Bool == false })
            _ = try image("convert", "-f", "raw", "-O", "qcow2", disk.uri, disk.path("copy"))
            #expect(
                try image("compare", "-f", "raw", "-F", "qcow2", source, disk.path("copy"))
                    .contains("identical"))
            let bitmap = try image(
                "map", "--output=json", "--image-opts",
                "driver=nbd,export=disk,server.type=unix,server.path=\(disk.fixture.socketPath),"
                    + "x-dirty-bitmap=qemu:dirty-bitmap:b0")
            let dirty = try #require(
                JSONSerialization.jsonObject(with: Data(bitmap.utf8)) as? [[String: Any]]
            ).filter { $0["data"] as? Bool == false }
            #expect(dirty.compactMap { $0["start"] as? Int } == [2 << 20])
            #expect(dirty.compactMap { $0["length"] as? Int } == [1 << 20])
        }
    }

    @Test(arguments: formats) func qemuNBDList(_ format: String) async throws {
        try await RealDisk.serve(format) { disk in
            let list = try tool(["/usr/bin/qemu-nbd", "--list", "-k", disk.fixture.socketPath])
            #expect(list.contains("exports available: 1") && list.contains("export: 'disk'"))
            #expect(list.contains("a \(format) disk") && list.contains("size:  8388608"))
            #expect(list.contains("base:allocation") && list.contains("qemu:dirty-bitmap:b0"))
            #expect(list.contains("fast-zero") && list.contains("multi"))
        }
    }

    @Test(arguments: formats) func libnbdInPython(_ format: String) async throws {
        try await RealDisk.serve(format, expected: "model") { disk in
            let seed = Int.random(in: 0..<1 << 31)
            let output = try tool([
                "/usr/bin/python3", "-c", Self.script, disk.fixture.socketPath,
                "\(RealDisk.sizeBytes)", disk.path("model"), "\(seed)",
            ])
            #expect(output == "done\n", "seed \(seed)")
        }
    }

    // Everything the library has, with every check of its own, against a model.
    private static let script = """
        import errno, nbd, random, sys
        path, size, target, seed = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
        chance = random.Random(seed)
        h = nbd.NBD()
        h.set_strict_mode(nbd.STRICT_MASK)
        h.set_export_name("disk")
        names = ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b0"]
        for name in names:
            h.add_meta_context(name)
        h.connect_unix(path)
        model = bytearray(size)
        for step in range(300):
            count = chance.choice([512, 4096, 65536, 300000])
            offset = chance.randrange(size - count)
            kind = chance.randrange(7)
            if kind < 2:
                data = chance.randbytes(count)
                h.pwrite(data, offset, chance.choice([0, 0, 0, nbd.CMD_FLAG_FUA]))
                model[offset:offset + count] = data
            elif kind == 2:
                flags = chance.choice([0, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO])
                try:
                    h.zero(count, offset, flags)
                    model[offset:offset + count] = bytes(count)
                except nbd.Error as error:
                    assert flags == nbd.CMD_FLAG_FAST_ZERO and error.errnum == errno.ENOTSUP
            elif kind == 3:
                h.trim(count, offset)
                # What it reads as afterwards is the server's to say.
                model[offset:offset + count] = h.pread(count, offset)
            elif kind == 4:
                chunks = []
                h.pread_structured(
                    count, offset, lambda data, at, status, error: chunks.append((at, len(data))),
                    nbd.CMD_FLAG_DF)
                assert chunks == [(offset, count)], chunks
            elif kind == 5:
                h.cache(count, offset)
                seen = {}
                def extent(name, at, entries, error):
                    seen[name] = (at, entries)
                h.block_status(size - offset, offset, extent, chance.choice([0, 8]))
                assert sorted(seen) == names, seen
                for at, entries in seen.values():
                    assert at == offset and 0 < sum(entries[0::2]) <= size - offset
                end = offset
                for length, flags in zip(*[iter(seen[names[0]][1])] * 2):
                    if flags & 2:
                        assert not any(model[end:end + length])
                    end += length
            else:
                h.flush()
            assert h.pread(count, offset) == model[offset:offset + count], (step, kind)
        assert h.pread(size, 0) == model
        h.shutdown()
        open(target, "wb").write(model)
        print("done")
        """

    // The columns of nbdinfo's table, apart from how it aligns them.
    private func columns(_ table: String) -> [String] {
        table.split(separator: "\n").map { line in
            line.split(separator: " ", omittingEmptySubsequences: true).joined(separator: " ")
        }
    }
}
