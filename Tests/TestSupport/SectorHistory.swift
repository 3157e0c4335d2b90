// What each sector of a disk may hold after a crash.
//
// Every write has a number, and fills its sectors with it; 0 is zeroes. A sector's history is the
// writes to it in order, each with the count of recorded file operations when it began and when it
// returned. After a power loss a sector holds what the last flush made durable, or something newer
// that had begun; after the end of the process alone, the newest that had returned, or one that was
// under way.

/// The history of a disk of which each sector is written by one task.
package struct SectorHistory {
    private struct Event {
        let number: UInt64
        let begin: Int
        var end: Int
    }

    package static let sectorBytes = 512

    private var sectors: [[Event]]
    /// Begin and end of each flush.
    private var flushes: [(begin: Int, end: Int)] = []

    /// A disk whose sectors hold `numbers` before the first operation.
    package init(_ numbers: [UInt64]) {
        sectors = numbers.map { [Event(number: $0, begin: 0, end: 0)] }
    }

    /// The sectors' content for `number`.
    package static func content(_ number: UInt64, sectors: Int) -> [UInt8] {
        [UInt64](repeating: number, count: sectors * sectorBytes / 8)
            .withUnsafeBytes { Array($0) }
    }

    /// The number in each sector of `bytes`; nil where a sector is not all of one write.
    package static func numbers(in bytes: [UInt8]) -> [UInt64?] {
        bytes.withUnsafeBytes { bytes in
            stride(from: 0, to: bytes.count, by: sectorBytes).map { start in
                let sector = UnsafeRawBufferPointer(rebasing: bytes[start..<start + sectorBytes])
                let first = sector.load(as: UInt64.self)
                let isWhole = sector.bindMemory(to: UInt64.self).allSatisfy { $0 == first }
                return isWhole ? first : nil
            }
        }
    }

    /// Adds a write to `sectors` that returned.
    package mutating func write(
        _ number: UInt64, to range: Range<Int>, begin: Int, end: Int
    ) {
        for sector in range {
            sectors[sector].append(Event(number: number, begin: begin, end: end))
        }
    }

    /// Adds a flush that returned.
    package mutating func flush(begin: Int, end: Int) { flushes.append((begin, end)) }

    /// What is wrong with `found` after a power loss when `done` operations had finished and no
    /// more than `begun` had begun; nil if nothing is.
    package func complaintAfterPowerLoss(
        _ found: [UInt64?], done: Int, begun: Int
    ) -> String? {
        let flushed = flushes.filter { $0.end <= done }.map(\.begin).max() ?? 0
        return complaint(found) { events in
            let durable = events.lastIndex { $0.end <= flushed } ?? 0
            return events[durable...].filter { $0.begin <= begun }.map(\.number)
        }
    }

    /// What is wrong with `found` after the process ended when `count` operations had finished.
    package func complaintAfterKill(_ found: [UInt64?], count: Int) -> String? {
        complaint(found) { events in
            let newest = events.lastIndex { $0.end <= count } ?? 0
            return events[newest...].filter { $0.begin <= count }.map(\.number)
        }
    }

    private func complaint(
        _ found: [UInt64?], allowed: ([Event]) -> [UInt64]
    ) -> String? {
        for (sector, number) in found.enumerated() {
            let allowed = allowed(sectors[sector])
            if let number, allowed.contains(number) { continue }
            return "sector \(sector) holds \(number.map(String.init) ?? "a mixture"), "
                + "not one of \(allowed)"
        }
        return nil
    }
}
