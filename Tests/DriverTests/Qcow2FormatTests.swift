import BlockCore
import TestSupport
import Testing

@testable import DriverQcow2

/// Headers and tables that contradict the format are refused, by name and without harm.
@Suite struct Qcow2FormatTests {
    private typealias Field = Qcow2Layout.Field
    private let directory: TemporaryDirectory
    private let image: String

    init() throws {
        directory = try TemporaryDirectory()
        image = directory.path("image.qcow2")
        try Qcow2Device.create(
            path: image, lengthBytes: 1 << 20, clusterBytes: 4096,
            backing: Qcow2Backing(name: "base.raw", format: "raw"))
    }

    @Test func featuresThatAreMissingHereAreRefusedByName() throws {
        for (bit, word) in [(2, "external"), (5, "bit 5"), (63, "bit 63")] {
            let error = refusal { $0[Field.incompatible + 7 - bit / 8] |= 1 << UInt8(bit % 8) }
            #expect(error?.kind == .unsupported && "\(error!)".contains(word))
        }
        for (method, word) in [(1, "AES"), (2, "LUKS")] as [(UInt8, String)] {
            let error = refusal { $0[Field.encryption + 3] = method }
            #expect(error?.kind == .unsupported && "\(error!)".contains(word))
        }
        #expect(refusal { $0[Field.version + 3] = 4 }?.kind == .unsupported)
        #expect(refusal { $0[Field.magic] = 0 }?.kind == .invalid)
    }

    @Test func fieldsThatMakeNoSenseAreCorrupt() throws {
        #expect(refusal { $0[Field.clusterBits + 3] = 8 }?.kind == .corrupt)
        #expect(refusal { $0[Field.clusterBits + 3] = 22 }?.kind == .corrupt)
        #expect(refusal { $0[Field.size] = 0x7F }?.kind == .corrupt)
        #expect(refusal { $0[Field.l1Count + 3] = 0 }?.kind == .corrupt)
        #expect(refusal { $0[Field.l1Count] = 0x7F }?.kind == .corrupt)
        #expect(refusal { $0[Field.l1Offset + 7] = 8 }?.kind == .corrupt)
        #expect(refusal { $0[Field.l1Offset] = 0x7F }?.kind == .corrupt)
        #expect(refusal { $0[Field.refcountTableOffset + 1] = 1 }?.kind == .corrupt)
        #expect(refusal { $0[Field.refcountTableClusters] = 1 }?.kind == .corrupt)
        #expect(refusal { $0[Field.refcountOrder + 3] = 7 }?.kind == .corrupt)
        // Subclusters, in clusters of 4 KiB.
        #expect(refusal { $0[Field.incompatible + 7] |= 16 }?.kind == .corrupt)
        #expect(refusal { $0[Field.headerBytes + 3] = 1 }?.kind == .corrupt)
        #expect(refusal { $0[Field.backingOffset + 5] = 1 }?.kind == .corrupt)
        #expect(refusal { $0[Field.backingBytes + 2] = 0x7F }?.kind == .corrupt)
    }

    @Test func aDirtyOrCorruptImageIsForReadingOnly() throws {
        for bit in [1, 2] as [UInt8] {
            let error = refusal { $0[Field.incompatible + 7] |= bit }
            #expect(error?.kind == .corrupt && "\(error!)".contains("qemu-img check"))
            try changeImage { $0[Field.incompatible + 7] |= bit }
            _ = try Qcow2Device.open(path: image, readOnly: true, backing: nil)
            try changeImage { $0[Field.incompatible + 7] &= ~bit }
        }
    }

    @Test func unknownAutoclearFeaturesAreClearedBeforeTheFirstChange() async throws {
        try changeImage { $0[Field.autoclear + 6] |= 1 }
        #expect(try Qcow2Device.readHeader(path: image).autoclear == 256)
        let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
        try await device.flush()
        #expect(try Qcow2Device.readHeader(path: image).autoclear == 256)
        try await device.put([1], at: 0)
        #expect(try Qcow2Device.readHeader(path: image).autoclear == 0)
        try await device.close()
    }

    @Test func theHeaderIsReadAsWritten() throws {
        let header = try Qcow2Device.readHeader(path: image)
        #expect(header.sizeBytes == 1 << 20 && header.clusterBytes == 4096)
        #expect(header.version == 3 && header.refcountOrder == 4)
        #expect(header.backing == Qcow2Backing(name: "base.raw", format: "raw"))
    }

    @Test func backingFilesAreNamedPlainlyOrByOptions() {
        func backing(_ name: String, _ format: String? = nil) -> Qcow2Backing {
            Qcow2Backing(headerName: name, format: format)
        }
        #expect(backing("a b.raw", "raw") == Qcow2Backing(name: "a b.raw", format: "raw"))
        #expect(backing("file:base.qcow2") == Qcow2Backing(name: "base.qcow2", format: nil))
        let nested =
            #"json:{"driver":"qcow2","file":{"driver":"file","filename":"/v/ba\u0073e","locking":"auto"}}"#
        #expect(backing(nested) == Qcow2Backing(name: "/v/base", format: "qcow2"))
        let dotted = #"json:{"driver": "qcow2", "file.driver": "file", "file.filename": "base"}"#
        #expect(backing(dotted, "raw") == Qcow2Backing(name: "base", format: "qcow2"))
        let raw = #"json:{"driver":"raw","file":{"driver":"host_device","filename":"/dev/vg/lv"}}"#
        #expect(backing(raw) == Qcow2Backing(name: "/dev/vg/lv", format: "raw"))
        let unformatted = #"json:{"file.filename":"base"}"#
        #expect(backing(unformatted, "qcow2") == Qcow2Backing(name: "base", format: "qcow2"))
        let file = #"json:{"driver":"file","filename":"base"}"#
        #expect(backing(file, "qcow2") == Qcow2Backing(name: "base", format: "raw"))
    }

    @Test func backingFilesThatAreNoPlainFilesKeepTheNameOfTheirDriver() {
        func format(_ name: String) -> String? {
            Qcow2Backing(headerName: name, format: "raw").format
        }
        #expect(format(#"json:{"driver":"nbd","host":"h","port":"1"}"#)!.hasPrefix("nbd"))
        #expect(
            format(#"json:{"driver":"qcow2","file":{"driver":"rbd","pool":"p","image":"i"}}"#)!
                .hasPrefix("rbd"))
        let offset = #"json:{"driver":"raw","offset":512,"file":{"driver":"file","filename":"b"}}"#
        #expect(format(offset) == "raw with offset")
        #expect(format("json:{") == "json" && format("json:[]") == "json")
    }

    /// Whatever stands in the metadata, requests end, with data or with an error.
    @Test func randomDamageNeverTraps() async throws {
        var random = Seed.generator("damage")
        let device = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
        try await device.put(random.bytes(300_000), at: 5000)
        try await device.writeZeroes(
            ByteRange(offset: 400_000, lengthBytes: 100_000), mayUnmap: true)
        try await device.close()
        let whole = try readFile(image)
        let tables = whole.indices.filter { $0 < 112 || whole[$0] != 0 && $0 % 4096 < 64 }
        for _ in 0..<400 {
            var bytes = whole
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                let place = tables[Int.random(in: 0..<tables.count, using: &random)]
                bytes[place] = UInt8.random(in: 0...255, using: &random)
            }
            try writeFile(image, bytes)
            await exercise(using: &random)
        }
    }

    private func exercise(using random: inout SplitMix64) async {
        let readOnly = Bool.random(using: &random)
        guard let device = try? Qcow2Device.open(path: image, readOnly: readOnly, backing: nil)
        else { return }
        // A damaged size may be enormous: stay with what the image had.
        let length = min(device.lengthBytes, 1 << 20)
        let all = ByteRange(offset: 0, lengthBytes: length)
        _ = try? await device.allExtents(in: all)
        for _ in 0..<6 {
            let offset = UInt64.random(in: 0...length, using: &random)
            let count = min(length - offset, UInt64.random(in: 1...70_000, using: &random))
            _ = try? await device.bytes(at: Int(offset), Int(count))
            _ = try? await device.put(random.bytes(Int(count)), at: Int(offset), now: true)
            _ = try? await device.discard(ByteRange(offset: offset, lengthBytes: count))
            _ = try? await device.flush()
        }
        try? await device.close()
    }

    /// The error of opening the image for writing after `change`, which is then undone.
    private func refusal(_ change: (inout [UInt8]) -> Void) -> BlockError? {
        do {
            let before = try readFile(image)
            defer { try? writeFile(image, before) }
            try changeImage(change)
            _ = try Qcow2Device.open(path: image, readOnly: false, backing: nil)
            return nil
        } catch {
            return error as? BlockError
        }
    }

    private func changeImage(_ change: (inout [UInt8]) -> Void) throws {
        var bytes = try readFile(image)
        change(&bytes)
        try writeFile(image, bytes)
    }
}
