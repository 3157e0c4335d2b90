import BlockCore
import TestSupport
import Testing

@testable import DriverQcow2

/// The grid of images: what QEMU wrote reads the same here, what is written here reads the same in
/// QEMU. A sample of it, or with TIDEMARK_GRID set, all of it.
@Suite struct GridTests {
    @Test func imagesOfQemuReadTheSameHere() async throws {
        for (index, kind) in QemuImageKind.sample(16, for: "grid read").enumerated() {
            let directory = try TemporaryDirectory()
            var random = Seed.generator("grid read \(kind)")
            let chain = try makeChain(kind, depth: index % 4, directory, using: &random)
            guard let devices = try open(chain, readOnly: true) else { continue }
            let raw = directory.path("model.raw")
            try Tool.check(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", chain.last!, raw])
            let model = try readFile(raw)
            let top = devices.last!
            try #require(top.lengthBytes == UInt64(model.count), "\(kind)")
            #expect(
                try await top.bytes(at: 0, model.count).firstDifference(from: model) == nil,
                "\(kind)")
            for _ in 0..<40 {
                let offset = Int.random(in: 0..<model.count, using: &random)
                let count = min(Int.random(in: 1...9000, using: &random), model.count - offset)
                let bytes = try await top.bytes(at: offset, count)
                #expect(bytes == Array(model[offset..<offset + count]), "\(kind) at \(offset)")
            }
            try await close(devices)
        }
    }

    @Test func imagesChangedHereReadTheSameInQemu() async throws {
        for (index, kind) in QemuImageKind.sample(12, for: "grid write").enumerated() {
            let directory = try TemporaryDirectory()
            var random = Seed.generator("grid write \(kind)")
            let chain = try makeChain(kind, depth: index % 4, directory, using: &random)
            guard let devices = try open(chain, readOnly: false) else { continue }
            let model = try await change(devices.last!, using: &random)
            try await close(devices)
            if kind.hasBitmaps {
                // Those that QEMU kept may be disowned, and leaked with that.
                _ = try Qcow2Check.repair(path: chain.last!, .leaks)
            }
            try await expectSame(chain.last!, model, directory, "\(kind)")
        }
    }

    @Test func imagesMadeHereReadTheSameInQemu() async throws {
        var random = Seed.generator("grid made")
        for (index, clusterBytes) in [512, 1024, 4096, 65536, 2 << 20].enumerated() {
            let directory = try TemporaryDirectory()
            var chain: [String] = []
            for depth in 0...index % 4 {
                let path = directory.path("\(depth).qcow2")
                let length = 3_000_000 + 512 * Int.random(in: 0...999, using: &random)
                try Qcow2Device.create(
                    path: path, lengthBytes: UInt64(length), clusterBytes: UInt64(clusterBytes),
                    backing: chain.isEmpty
                        ? nil : Qcow2Backing(name: "\(depth - 1).qcow2", format: "qcow2"))
                chain.append(path)
                let devices = try #require(try open(chain, readOnly: false))
                let model = try await change(devices.last!, using: &random)
                try await close(devices)
                try await expectSame(path, model, directory, "\(clusterBytes), depth \(depth)")
            }
        }
    }

    /// A chain whose top is of `kind`; returns its paths, base first.
    private func makeChain(
        _ kind: QemuImageKind, depth: Int, _ directory: TemporaryDirectory,
        using random: inout SplitMix64
    ) throws -> [String] {
        var chain: [String] = []
        for place in 0...depth {
            let path = directory.path("\(place).qcow2")
            let backing = chain.last
            try (place == depth ? kind : QemuImageKind()).fill(
                path, backing: backing, using: &random)
            chain.append(path)
        }
        return chain
    }

    /// Opens a chain; nil if this driver refuses the top by name.
    private func open(_ chain: [String], readOnly: Bool) throws -> [Qcow2Device]? {
        var devices: [Qcow2Device] = []
        for (index, path) in chain.enumerated() {
            let isTop = index == chain.count - 1
            do {
                devices.append(
                    try Qcow2Device.open(
                        path: path, readOnly: readOnly || !isTop, backing: devices.last))
            } catch {
                guard isTop, error.kind == .unsupported else { throw error }
                return nil
            }
        }
        return devices
    }

    private func close(_ devices: [Qcow2Device]) async throws {
        for device in devices.reversed() { try await device.close() }
    }

    /// Random writes, zeroes and discards; returns what the device then holds.
    private func change(
        _ device: Qcow2Device, using random: inout SplitMix64
    ) async throws -> [UInt8] {
        let length = Int(device.lengthBytes)
        var model = try await device.bytes(at: 0, length)
        for _ in 0..<40 {
            let offset = Int.random(in: 0..<length, using: &random)
            let count = min(Int.random(in: 1...200_000, using: &random), length - offset)
            let range = ByteRange(offset: UInt64(offset), lengthBytes: UInt64(count))
            switch Int.random(in: 0..<6, using: &random) {
            case 0:
                try await device.writeZeroes(range, mayUnmap: Bool.random(using: &random))
                model.replaceSubrange(
                    offset..<offset + count, with: [UInt8](repeating: 0, count: count))
            case 1:
                try await device.discard(range)
                model.replaceSubrange(
                    offset..<offset + count, with: try await device.bytes(at: offset, count))
            case 2: try await device.flush()
            default:
                let bytes = random.bytes(count)
                try await device.put(bytes, at: offset, now: true)
                model.replaceSubrange(offset..<offset + count, with: bytes)
            }
        }
        return model
    }

    private func expectSame(
        _ image: String, _ model: [UInt8], _ directory: TemporaryDirectory, _ what: String
    ) async throws {
        let raw = directory.path("changed.raw")
        try writeFile(raw, model)
        let compared = try Tool.run([
            "qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, raw,
        ])
        #expect(compared.status == 0, "\(what): \(compared)")
        let judge = try QemuCheck(image)
        #expect(judge.status == 0, "\(what): \(judge.errors)")
        let report = try Qcow2Check.run(path: image)
        #expect(report.verdict == .clean, "\(what): \(report.findings)")
        #expect(report.imageEndBytes == judge["image-end-offset"], "\(what)")
    }
}
