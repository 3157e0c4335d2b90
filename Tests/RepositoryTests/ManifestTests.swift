import BlockCore
import Foundation
import Testing

@testable import Repository

@Suite struct ManifestTests {
    private static func example() throws -> Manifest {
        let hash = String(repeating: "5a", count: 32)
        let parent = try #require(PointID("20261121T030000.123Z-4f2a91c3"))
        let id = try #require(PointID("20261121T040000.000Z-00000001"))
        return Manifest(
            point: id,
            volume: .init(
                uuid: "0e9d4a3c-51b7-4c1e-9a42-1b0a6f8f3c11", name: "web \"1\" / \\",
                lengthBytes: 1_000_001),
            level: .incremental, reason: .bitmap,
            parent: .init(point: parent, contentDigest: hash), group: "nightly",
            granularityBytes: 65536, digest: .init(algorithm: .xxh3, gridBytes: 65536),
            freeze: .init(
                time: try #require(UTCTime(text: "2026-11-21T03:59:59.999Z")),
                durationMicroseconds: 830),
            image: .init(
                file: "\(id).qcow2", lengthBytes: 1_000_448, clusterBytes: 65536,
                storedBytes: 131_072),
            extents: .init(
                file: "\(id).digests", lengthBytes: 128, sha256: hash, recordCount: 2,
                dataBytes: 65536, zeroBytes: 65536),
            contentDigest: hash, tool: Manifest.tool)
    }

    @Test func aManifestSurvivesARoundTrip() throws {
        let (sealed, bytes) = try ManifestCodec.encode(Self.example())
        #expect(try ManifestCodec.decode(bytes, place: "test") == sealed)
        #expect(sealed.manifestSHA256 != ManifestSeal.placeholder)
    }

    @Test func theSealIsWhatTheDocumentSays() throws {
        let (sealed, bytes) = try ManifestCodec.encode(Self.example())
        let text = String(decoding: bytes, as: UTF8.self)
        let opened = text.replacingOccurrences(
            of: sealed.manifestSHA256, with: String(repeating: "0", count: 64))
        let folder = try TemporaryFolder()
        try (opened + sealed.extents.sha256).write(
            toFile: "\(folder.path)/text", atomically: false, encoding: .utf8)
        let sum = try run("sha256sum", "\(folder.path)/text")
        #expect(sum.output.hasPrefix(sealed.manifestSHA256))
    }

    @Test func jqAndPythonReadIt() throws {
        let folder = try TemporaryFolder()
        let (sealed, bytes) = try ManifestCodec.encode(Self.example())
        try Data(bytes).write(to: URL(filePath: "\(folder.path)/point.json"))
        let script =
            "import json,sys; m=json.load(open(sys.argv[1])); "
            + "print(m['point'], m['volume']['lengthBytes'], m['parent']['point'])"
        let result = try run("python3", "-c", script, "\(folder.path)/point.json")
        #expect(
            result.output == "\(sealed.point) 1000001 20261121T030000.123Z-4f2a91c3\n")
    }

    @Test func anyChangedByteIsFound() throws {
        let (_, bytes) = try ManifestCodec.encode(Self.example())
        for index in bytes.indices {
            var changed = bytes
            changed[index] ^= 1
            #expect(throws: BlockError.self, "byte \(index)") {
                try ManifestCodec.decode(changed, place: "test")
            }
        }
    }

    @Test func anyTruncationIsFound() throws {
        let (_, bytes) = try ManifestCodec.encode(Self.example())
        for length in 0..<bytes.count {
            #expect(throws: BlockError.self, "\(length) bytes") {
                try ManifestCodec.decode(Array(bytes.prefix(length)), place: "test")
            }
        }
    }

    @Test func aVolumeNamedLikeTheSealDoesNotConfuseIt() throws {
        var manifest = try Self.example()
        manifest.volume.name = "\"manifestSHA256\" : \"\(ManifestSeal.placeholder)\""
        let (sealed, bytes) = try ManifestCodec.encode(manifest)
        #expect(try ManifestCodec.decode(bytes, place: "test") == sealed)
    }

    @Test func aNewerFormatIsRefusedAsSuch() throws {
        let bytes = Array(#"{"formatVersion": 2, "anything": true}"#.utf8)
        let error = #expect(throws: BlockError.self) {
            try ManifestCodec.decode(bytes, place: "test")
        }
        #expect(error?.kind == .unsupported)
        #expect(error?.description.contains("newer") == true)
    }

    @Test func unknownReasonsAndFieldsAreKept() throws {
        var manifest = try Self.example()
        manifest.reason = PointReason(rawValue: "weather")
        let (_, bytes) = try ManifestCodec.encode(manifest)
        #expect(try ManifestCodec.decode(bytes, place: "test").reason.rawValue == "weather")
    }

    @Test(arguments: [
        "../20261121T040000.000Z-00000001.qcow2", "/etc/passwd", "other.qcow2",
        "20261121T040000.000Z-00000001./../x.qcow2", "20261121T040000.000Z-00000001.raw", "",
    ])
    func aFileNameOfAnotherPointIsRefused(_ name: String) throws {
        try refuse { $0.image.file = name }
        try refuse { $0.extents.file = name }
    }

    @Test func whatContradictsItselfIsRefused() throws {
        try refuse { $0.parent = nil }
        try refuse { $0.level = .full }
        try refuse { $0.point = $0.parent?.point ?? $0.point }
        try refuse { $0.granularityBytes = 3 }
        try refuse { $0.granularityBytes = 0 }
        try refuse { $0.digest.gridBytes = 4096 }
        try refuse { $0.image.clusterBytes = 4096 }
        try refuse { $0.image.lengthBytes = 1_000_001 }
        try refuse { $0.volume.lengthBytes = .max }
        try refuse { $0.extents.dataBytes = .max }
        try refuse { $0.contentDigest = "x" }
        try refuse { $0.extents.sha256 = "" }
    }

    /// Seals a manifest with a fault in it: the seal is good, the content is not.
    private func refuse(
        _ body: (inout Manifest) -> Void, _ location: SourceLocation = #_sourceLocation
    ) throws {
        var manifest = try Self.example()
        body(&manifest)
        let (_, bytes) = try ManifestCodec.encode(manifest)
        let error = #expect(throws: BlockError.self, sourceLocation: location) {
            try ManifestCodec.decode(bytes, place: "test")
        }
        #expect(error?.kind == .corrupt, sourceLocation: location)
    }
}
