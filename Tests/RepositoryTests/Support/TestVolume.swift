import BlockCore
import Foundation
import TestSupport

@testable import Repository

/// A volume as a byte array, with the granules that changed since its last point, and a way to
/// back it up.
struct TestVolume {
    var uuid = UUID().uuidString.lowercased()
    var name = "disk"
    var granularityBytes: UInt64 = 64 << 10
    private(set) var content: [UInt8]
    private(set) var dirty: Set<UInt64> = []
    private(set) var last: Manifest?

    init(lengthBytes: Int, granularityBytes: UInt64 = 64 << 10) {
        content = [UInt8](repeating: 0, count: lengthBytes)
        self.granularityBytes = granularityBytes
    }

    var lengthBytes: UInt64 { UInt64(content.count) }

    mutating func write(at offset: Int, _ bytes: [UInt8]) {
        content.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        mark(offset, bytes.count)
    }

    mutating func writeZeroes(at offset: Int, count: Int) {
        write(at: offset, [UInt8](repeating: 0, count: count))
    }

    /// What grows reads as zeroes and is dirty.
    mutating func resize(to lengthBytes: Int) {
        let old = content.count
        if lengthBytes > old {
            content += [UInt8](repeating: 0, count: lengthBytes - old)
            mark(old, lengthBytes - old)
        } else {
            content.removeLast(old - lengthBytes)
            dirty = dirty.filter { $0 * granularityBytes < UInt64(lengthBytes) }
        }
    }

    private mutating func mark(_ offset: Int, _ count: Int) {
        guard count > 0 else { return }
        let first = UInt64(offset) / granularityBytes
        dirty.formUnion(first...(UInt64(offset + count - 1) / granularityBytes))
    }

    /// A few random writes, zero-writes and, at times, a resize.
    mutating func change(using random: inout SplitMix64, mayResize: Bool = true) {
        if mayResize && Int.random(in: 0..<4, using: &random) == 0 {
            resize(to: Int.random(in: 1...content.count * 2, using: &random))
        }
        for _ in 0..<Int.random(in: 0...6, using: &random) {
            let offset = Int.random(in: 0..<content.count, using: &random)
            let limit = min(content.count - offset, Int(granularityBytes) * 3)
            let count = Int.random(in: 1...limit, using: &random)
            if Bool.random(using: &random) {
                writeZeroes(at: offset, count: count)
            } else {
                write(at: offset, randomBytes(count, using: &random))
            }
        }
    }

    func plan(
        _ level: PointLevel, now: UTCTime = .now(), id: PointID? = nil, group: String? = nil
    ) throws -> PointPlan {
        let parent = level == .incremental ? last : nil
        return PointPlan(
            id: try id ?? PointID(after: last?.point, now: now), volumeUUID: uuid,
            volumeName: name, lengthBytes: lengthBytes, level: level,
            reason: level == .full ? .first : .bitmap, parent: parent,
            granularityBytes: granularityBytes, group: group, freezeTime: now,
            freezeMicroseconds: 1500)
    }

    /// What a point of `level` has to hold, in whole clusters.
    func ranges(for writer: any PointWriter) -> [ByteRange] {
        let cluster = writer.clusterBytes
        var clusters: Set<UInt64> = []
        if writer.plan.level == .full {
            clusters.formUnion(0..<(lengthBytes.alignedUp(to: cluster) / cluster))
        } else {
            for granule in dirty {
                let start = granule * granularityBytes
                let end = start + granularityBytes
                clusters.formUnion(start / cluster...(end - 1) / cluster)
            }
            if !writer.rangeToHold.isEmpty { clusters.insert(writer.rangeToHold.offset / cluster) }
        }
        return clusters.sorted().filter { $0 * cluster < lengthBytes }.map {
            ByteRange(offset: $0 * cluster, end: min(($0 + 1) * cluster, lengthBytes))
        }
    }

    /// Writes everything that belongs into the point, by several tasks out of order.
    func fill(_ writer: any PointWriter, using random: inout SplitMix64) async throws {
        var pieces: [ByteRange] = []
        for range in ranges(for: writer) {
            if let end = pieces.last?.end, end == range.offset, Bool.random(using: &random) {
                pieces[pieces.count - 1].lengthBytes += range.lengthBytes
            } else {
                pieces.append(range)
            }
        }
        pieces.shuffle(using: &random)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for share in 0..<3 {
                let mine = pieces.enumerated().filter { $0.offset % 3 == share }.map(\.element)
                group.addTask {
                    for piece in mine { try await store(piece, in: writer) }
                }
            }
            try await group.waitForAll()
        }
    }

    private func store(_ range: ByteRange, in writer: any PointWriter) async throws {
        let bytes = content[Int(range.offset)..<Int(range.end)]
        if bytes.allSatisfy({ $0 == 0 }) && range.offset / writer.clusterBytes % 2 == 0 {
            try await writer.writeZeroes(range)
            return
        }
        try await writer.write(at: range.offset, from: slice(Array(bytes)))
    }

    /// Backs the volume up and goes on from the new point.
    @discardableResult
    mutating func backUp(
        to repository: any BackupRepository, _ level: PointLevel,
        using random: inout SplitMix64, now: UTCTime = .now()
    ) async throws -> Manifest {
        let writer = try await repository.beginPoint(plan(level, now: now))
        try await fill(writer, using: &random)
        let manifest = try await writer.commit {}
        advance(to: manifest)
        return manifest
    }

    /// Takes `manifest` for the volume's last point.
    mutating func advance(to manifest: Manifest?) {
        last = manifest
        dirty = []
    }
}

func randomBytes(_ count: Int, using random: inout SplitMix64) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count + 8)
    while bytes.count < count {
        withUnsafeBytes(of: random.next()) { bytes.append(contentsOf: $0) }
    }
    bytes.removeLast(bytes.count - count)
    return bytes
}

/// `bytes` in memory that a device takes.
func slice(_ bytes: [UInt8]) -> BufferSlice {
    let buffer = BufferPool.shared.take(max(bytes.count, 1))
    buffer.prefix(bytes.count).bytes.copyBytes(from: bytes)
    return buffer.prefix(bytes.count)
}

/// The whole content of `device`.
func content(of device: any BlockDevice) async throws -> [UInt8] {
    guard device.lengthBytes > 0 else { return [] }
    let buffer = BufferPool.shared.take(Int(device.lengthBytes))
    let all = buffer.prefix(Int(device.lengthBytes))
    try await device.read(at: 0, into: all)
    return Array(all.readOnlyBytes)
}

/// The whole content of the point `id`.
func content(of id: PointID, in repository: any BackupRepository) async throws -> [UInt8] {
    let device = try await repository.openPoint(id)
    let bytes = try await content(of: device)
    try await device.close()
    return bytes
}
