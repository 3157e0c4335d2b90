import Foundation

/// One point of the grid of images that qemu-img can make.
package struct QemuImageKind: Sendable, CustomStringConvertible {
    package var version = 3
    package var clusterBytes = 65536
    package var refcountBits = 16
    package var hasExtendedL2 = false
    package var compression = "zlib"
    package var hasDataFile = false
    package var hasLazyRefcounts = false
    package var hasSnapshots = false
    package var hasBitmaps = false

    package init() {}

    package var description: String {
        var words = ["v\(version)", "\(clusterBytes)", "\(refcountBits)-bit", compression]
        if hasExtendedL2 { words.append("extended-l2") }
        if hasDataFile { words.append("data-file") }
        if hasLazyRefcounts { words.append("lazy") }
        if hasSnapshots { words.append("snapshots") }
        if hasBitmaps { words.append("bitmaps") }
        return words.joined(separator: " ")
    }

    /// What no image can be: features of version 3 in version 2, subclusters below 512 bytes, a
    /// snapshot with refcounts that cannot count its references or with an external file,
    /// compressed clusters in one.
    package var isPossible: Bool {
        if version == 2
            && (refcountBits != 16 || hasExtendedL2 || compression != "zlib" || hasDataFile
                || hasLazyRefcounts || hasBitmaps)
        {
            return false
        }
        if hasExtendedL2 && clusterBytes < 16384 { return false }
        // Compressed clusters share host clusters, and snapshots double that.
        if hasSnapshots && (refcountBits < 8 || hasDataFile) { return false }
        return !(hasDataFile && compression != "zlib")
    }

    /// Every point of the grid that can be.
    package static let all: [QemuImageKind] = {
        var kinds: [QemuImageKind] = []
        let flags = [false, true]
        for clusterBytes in [512, 4096, 16384, 65536, 2 << 20] {
            for refcountBits in [1, 2, 4, 8, 16, 32, 64] {
                for bits in 0..<128 {
                    var kind = QemuImageKind()
                    kind.clusterBytes = clusterBytes
                    kind.refcountBits = refcountBits
                    kind.version = bits & 1 != 0 ? 2 : 3
                    kind.hasExtendedL2 = bits & 2 != 0
                    kind.compression = bits & 4 != 0 ? "zstd" : "zlib"
                    kind.hasDataFile = bits & 8 != 0
                    kind.hasLazyRefcounts = bits & 16 != 0
                    kind.hasSnapshots = bits & 32 != 0
                    kind.hasBitmaps = bits & 64 != 0
                    if kind.isPossible { kinds.append(kind) }
                }
            }
        }
        return kinds
    }()

    /// The whole grid if TIDEMARK_GRID is set, or the part of it that it names: 3/8 is every eighth
    /// point from the third on. Else `count` random points.
    package static func sample(_ count: Int, for test: String) -> [QemuImageKind] {
        if let grid = getenv("TIDEMARK_GRID") {
            let part = String(cString: grid).split(separator: "/").compactMap { Int($0) }
            guard part.count == 2 else { return all }
            return stride(from: part[0] - 1, to: all.count, by: part[1]).map { all[$0] }
        }
        var random = Seed.generator(test)
        return (0..<count).map { _ in all.randomElement(using: &random)! }
    }

    /// Sixteen clusters and some, at least a mebibyte, at an odd sector.
    package func lengthBytes(using random: inout SplitMix64) -> Int {
        max(16 * clusterBytes, 1 << 20) + 512 * Int.random(in: 0...300, using: &random)
    }

    /// Makes an empty image of this kind with qemu-img.
    package func create(_ path: String, lengthBytes: Int, backing: String? = nil) throws {
        var options = [
            "compat=\(version == 2 ? "0.10" : "1.1")", "cluster_size=\(clusterBytes)",
        ]
        if version == 3 {
            options += ["refcount_bits=\(refcountBits)", "compression_type=\(compression)"]
            if hasExtendedL2 { options.append("extended_l2=on") }
            if hasLazyRefcounts { options.append("lazy_refcounts=on") }
            if hasDataFile { options.append("data_file=\(path).data") }
        }
        var command = ["qemu-img", "create", "-q", "-f", "qcow2", "-o"]
        command.append(options.joined(separator: ","))
        if let backing { command += ["-b", backing, "-F", "qcow2"] }
        try Tool.check(command + [path, "\(lengthBytes)"])
    }

    /// Makes an image of this kind and writes to it at random, with snapshots, bitmaps, zeroes,
    /// discards and compressed clusters as far as the kind has them. Returns its size.
    @discardableResult
    package func fill(
        _ path: String, backing: String? = nil, using random: inout SplitMix64
    ) throws -> Int {
        let lengthBytes = lengthBytes(using: &random)
        try create(path, lengthBytes: lengthBytes, backing: backing)
        if !hasDataFile { try compress(path, lengthBytes, using: &random) }
        try write(path, lengthBytes, using: &random)
        if hasSnapshots {
            try Tool.check(["qemu-img", "snapshot", "-c", "first", path])
            try write(path, lengthBytes, using: &random)
        }
        if hasBitmaps {
            try Tool.check(["qemu-img", "bitmap", "--add", path, "b0"])
            try Tool.check(["qemu-img", "bitmap", "--add", "-g", "4096", path, "b1"])
            try Tool.check(["qemu-img", "bitmap", "--disable", path, "b1"])
            try write(path, lengthBytes, using: &random)
        }
        return lengthBytes
    }

    /// Writes compressed clusters where nothing is, and does nothing else in that process: QEMU 7.2
    /// packs them into clusters that it has freed and used again meanwhile.
    private func compress(
        _ path: String, _ lengthBytes: Int, using random: inout SplitMix64
    ) throws {
        var command = ["qemu-io", "-f", "qcow2"]
        for cluster in (0..<lengthBytes / clusterBytes).shuffled(using: &random).prefix(5) {
            let pattern = Int.random(in: 1...255, using: &random)
            command += ["-c", "write -c -P \(pattern) \(cluster * clusterBytes) \(clusterBytes)"]
        }
        try Tool.check(command + [path])
    }

    /// Writes to an image of this kind with qemu-io.
    private func write(
        _ path: String, _ lengthBytes: Int, using random: inout SplitMix64
    ) throws {
        var command = ["qemu-io", "-f", "qcow2", "-d", "unmap"]
        for _ in 0..<10 {
            let offset = Int.random(in: 0..<lengthBytes / 512, using: &random) * 512
            let most = min(lengthBytes - offset, 3 * clusterBytes + 4096) / 512
            let length = Int.random(in: 1...max(most, 1), using: &random) * 512
            let pattern = Int.random(in: 1...255, using: &random)
            switch Int.random(in: 0..<6, using: &random) {
            case 0: command += ["-c", "write -z \(offset) \(length)"]
            case 1: command += ["-c", "write -z -u \(offset) \(length)"]
            case 2: command += ["-c", "discard \(offset) \(length)"]
            default: command += ["-c", "write -P \(pattern) \(offset) \(length)"]
            }
        }
        let result = try Tool.run(command + [path])
        guard result.status == 0 else {
            throw Tool.Failure(description: "\(self): \(command): \(result)")
        }
    }
}
