import BlockCore
import TestSupport
import Testing

@testable import DriverQcow2

/// The parts of the qcow2 driver that deal with tables.
@Suite struct Qcow2TableTests {
    @Test(arguments: 0...6)
    func refcountsOfAllWidthsAreStoredSideBySide(order: Int) {
        var block = RefcountBlock(bytes: [UInt8](repeating: 0, count: 512), order: order)
        #expect(block.count == 4096 >> order)
        let most: UInt64 = order == 6 ? .max : (1 << (1 << UInt64(order))) - 1
        for index in 0..<block.count { block[index] = UInt64(index) & most }
        for index in 0..<block.count { #expect(block[index] == UInt64(index) & most) }
        block[3] = most
        #expect(block[2] == 2 & most && block[3] == most && block[4] == 4 & most)
        #expect(block.byteRange(of: 3..<4).contains((3 << order) / 8))
    }

    @Test func refcountsAreBigEndian() {
        var block = RefcountBlock(bytes: [UInt8](repeating: 0, count: 512), order: 4)
        block[1] = 0x1234
        #expect(Array(block.bytes[..<4]) == [0, 0, 0x12, 0x34])
    }

    @Test func aCompressedEntrySplitsIntoOffsetAndSectors() {
        // Clusters of 64 KiB: 54 bits of offset, then 8 of sectors after the first.
        let entry = Qcow2Layout.compressed | 5 << 54 | 0x12345
        let location = CompressedLocation(entry: entry, clusterBits: 16)
        #expect(location.offset == 0x12345)
        #expect(location.lengthBytes == 6 * 512 - 0x145)
    }

    @Test func tablesThatDoNotFitAreReadAgain() async throws {
        let directory = try TemporaryDirectory()
        let path = directory.path("image.qcow2")
        // A table of 512 bytes maps 32 KiB; the cache holds four of these 40.
        let clusters = 40 * 64
        let writer = try Qcow2Writer(
            path: path, lengthBytes: UInt64(clusters * 512), clusterBytes: 512, backing: nil)
        try await writer.write(
            at: 0, from: .holding([UInt8](repeating: 1, count: clusters * 512)))
        try await writer.finish()
        let file = try HostFile(path: path, access: .readOnly)
        let cache = try makeCache(file, cacheBytes: 2048)
        var random = Seed.generator("cache")
        var misses = 0
        for _ in 0..<2000 {
            let cluster = UInt64.random(in: 0..<UInt64(clusters), using: &random)
            let range = ByteRange(offset: cluster * 512 + 7, lengthBytes: 100)
            var runs = RunList()
            cache.end(try cache.begin(range, into: &runs))
            if runs.count == 0 {
                misses += 1
                try cache.load(cache.geometry.l1Index(of: range.offset))
                cache.end(try cache.begin(range, into: &runs))
            }
            // The writer put the clusters one after the other behind the header's.
            #expect(runs.count == 1 && runs[0].host == 512 + range.offset && runs[0].kind == .data)
        }
        #expect(misses > 1000)
    }

    @Test func anEpochDrainsWhenItsLookupsEnd() throws {
        let directory = try TemporaryDirectory()
        let path = directory.path("image.qcow2")
        try Qcow2Device.create(path: path, lengthBytes: 1 << 20)
        let file = try HostFile(path: path, access: .readOnly)
        let cache = try makeCache(file, cacheBytes: 1)
        var runs = RunList()
        let early = try cache.begin(ByteRange(offset: 0, lengthBytes: 1), into: &runs)
        let epoch = cache.startEpoch()
        let late = try cache.begin(ByteRange(offset: 0, lengthBytes: 1), into: &runs)
        #expect(!cache.hasDrained(epoch))
        cache.end(early)
        #expect(cache.hasDrained(epoch))
        cache.end(late)
    }

    @Test func theRefcountPlanCountsItself() {
        for clusterBits in [9, 12, 16] {
            let geometry = Qcow2Geometry(clusterBits: clusterBits, sizeBytes: 0)
            for before in [1, 255, 256, 257, 100_000, 10_000_000] as [UInt64] {
                let plan = RefcountPlan(clustersBefore: before, geometry: geometry)
                #expect(plan.total == before + plan.blockCount + plan.tableClusters)
                #expect(plan.blockCount * geometry.clusterBytes >= plan.total * 2)
                #expect(plan.tableClusters * geometry.clusterBytes >= plan.blockCount * 8)
            }
        }
    }

    /// However little memory there is, every table can be read; and all of it comes back.
    @Test(arguments: [0, 10, 1000])
    func aCacheKeepsNoMoreTablesThanTheAgentHasMemoryFor(tables: UInt64) throws {
        let directory = try TemporaryDirectory()
        let path = directory.path("image.qcow2")
        // 64 tables of 512 bytes.
        try Tool.check([
            "qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path, "2M",
        ])
        try Tool.check(["qemu-io", "-f", "qcow2", "-c", "write 0 2M", path])
        let budget = MemoryBudget(limitBytes: tables * 512)
        let file = try HostFile(path: path, access: .readOnly)
        var cache: L2Cache? = try makeCache(file, cacheBytes: 1 << 20, budget: budget)
        for _ in 0..<2 {
            for table in 0..<64 { try cache?.load(table) }
            let used = try #require(budget.usedBytes[.caches])
            #expect(used == min(tables, 60) * 512)
        }
        cache = nil
        #expect(budget.usedBytes[.caches] == 0)
    }

    private func makeCache(
        _ file: HostFile, cacheBytes: Int, budget: MemoryBudget = .shared
    ) throws -> L2Cache {
        let header = try Qcow2Header(file: file)
        return try L2Cache(
            file: file, header: header,
            l1: try file.readNumbers(Int(header.l1Count), at: header.l1Offset), regions: nil,
            damage: Damage(file: file, header: header, isReadOnly: true), cacheBytes: cacheBytes,
            budget: budget)
    }

    @Test func compressedFormsLieWhereAnEntryCanName() throws {
        for clusterBits in 9...21 {
            let limit = UInt64(1) << UInt64(62 - (clusterBits - 8))
            let last = ByteRange(offset: limit - 512, lengthBytes: 512)
            try CompressedLocation.check(last, clusterBits: clusterBits, on: "image")
            let entry = CompressedLocation.entry(
                offset: last.offset, packedBytes: 512, clusterBits: clusterBits)
            #expect(CompressedLocation(entry: entry, clusterBits: clusterBits).range == last)
            let error = #expect(throws: BlockError.self) {
                try CompressedLocation.check(
                    ByteRange(offset: limit - 511, lengthBytes: 512), clusterBits: clusterBits,
                    on: "image")
            }
            #expect(error?.kind == .noSpace)
        }
    }
}
