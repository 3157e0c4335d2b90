import Glibc
import TestSupport

// What a volume may hold, from what its guest asked for.
//
// Time is the number of notes in the journal: a request was issued at one note and answered at a
// later one, so that for every cut through the journal it is known what the guest had seen by
// then. Each request leaves its own number in every sector that it writes.
//
// At a given instant some requests *certainly* show: after a kill those that were answered, after a
// power loss those that were answered before a flush was issued that was answered too. Those that
// were issued later *may* show, each sector for itself. A sector holds what its last certain
// request left, or what any later one did.
//
// A growth is a request too, which leaves zeroes in what it adds: it certainly shows in a volume of
// that length. What a cut takes away comes back with no growth.

/// The note at which something happened, counted from 0.
typealias Moment = Int

/// The requests of the guests of one volume.
final class GuestHistory {
    static let sectorBytes = 512

    struct Request {
        let stamp: UInt64
        let sectors: Range<Int>
        let issued: Moment
        /// When it was answered, and so when it certainly showed.
        var answered: Moment?
        /// What it may leave in a sector, by its own index; nil for its stamp in each.
        var leaves: [UInt64]?
        /// Whether it may also leave what there was: a discard, and a write that failed.
        var mayLeaveAll = false
        /// The length that the volume has with it, of a growth.
        var lengthBytes: Int?
        /// Whether it stands for what was found, and changed nothing.
        var isObservation = false
    }

    private struct Length {
        let bytes: Int
        let issued: Moment
        var answered: Moment?
    }

    private struct Flush {
        let issued: Moment
        var answered: Moment?
    }

    private var lengths: [Length]
    private(set) var requests: [Request] = []
    private var flushes: [Flush] = []
    /// Which requests touched a sector, oldest first.
    private var touches: [Int: [Int]] = [:]

    init(lengthBytes: Int) { lengths = [Length(bytes: lengthBytes, issued: -1, answered: -1)] }

    /// The length that was asked for last.
    var lengthBytes: Int { lengths.last!.bytes }

    var sectorCount: Int { (lengthBytes + Self.sectorBytes - 1) / Self.sectorBytes }

    /// A request that was just issued. Returns its index.
    func issue(
        _ sectors: Range<Int>, at moment: Moment, isZero: Bool = false, mayLeaveAll: Bool = false
    ) -> Int {
        let index = requests.count
        requests.append(
            Request(
                stamp: isZero ? 0 : UInt64(index + 1), sectors: sectors, issued: moment,
                mayLeaveAll: mayLeaveAll))
        for sector in sectors { touches[sector, default: []].append(index) }
        return index
    }

    /// The request was answered; `leaves` is what its sectors read as now, where that was open.
    func answer(_ index: Int, at moment: Moment, leaves: [UInt64]? = nil) {
        requests[index].answered = moment
        requests[index].leaves = leaves
        if leaves != nil { requests[index].mayLeaveAll = false }
    }

    /// Another length was just asked for.
    func resize(to lengthBytes: Int, at moment: Moment) {
        let oldSectors = sectorCount
        lengths.append(Length(bytes: lengthBytes, issued: moment))
        guard sectorCount > oldSectors else { return }
        let index = issue(oldSectors..<sectorCount, at: moment, isZero: true)
        requests[index].lengthBytes = lengthBytes
    }

    /// The volume has the length that was asked for last.
    func answerResize(at moment: Moment) {
        lengths[lengths.count - 1].answered = moment
        if let index = requests.lastIndex(where: { $0.lengthBytes == lengthBytes }) {
            requests[index].answered = moment
        }
    }

    /// The power was lost at `moment`, and after that, before the next one, all sectors held
    /// `image`: of what was not durable, no other state can come any more.
    func observe(_ image: SectorImage, at moment: Moment) throws {
        let stamps = try (0..<image.sectorCount).map { sector in
            guard let stamp = image[sector] else {
                throw Tool.Failure(description: "sector \(sector) holds a mixture")
            }
            return stamp
        }
        let index = issue(0..<stamps.count, at: moment)
        requests[index].isObservation = true
        answer(index, at: moment, leaves: stamps)
        flush(issued: moment + 1, answered: moment + 1)
    }

    /// Where in the volume a sector may be of two parts: the ends that it had.
    var seams: Set<Int> { Set(lengths.map(\.bytes)) }

    /// What is wrong with a length when what was answered before `certain` holds, and what was
    /// issued before `possible` may; nil if nothing is.
    func fault(ofLength bytes: Int, certain: Moment, possible: Moment) -> String? {
        let last = lengths.lastIndex { $0.answered.map { $0 < certain } ?? false } ?? 0
        let allowed = lengths[last...].filter { $0.issued < possible }.map(\.bytes)
        return allowed.contains(bytes) ? nil : "it has \(bytes) bytes, and not one of \(allowed)"
    }

    /// A flush, whether of a guest or of the agent at its end.
    func flush(issued: Moment, answered: Moment?) {
        flushes.append(Flush(issued: issued, answered: answered))
    }

    /// The last moment before which everything that was answered is durable at `now`.
    func durableMoment(at now: Moment) -> Moment {
        flushes.filter { $0.answered.map { $0 < now } ?? false }.map(\.issued).max() ?? 0
    }

    /// The values that a sector of a volume of that length may have when requests answered before
    /// `certain` show, and those issued before `possible` may.
    private func values(
        of sector: Int, lengthBytes: Int, certain: Moment, possible: Moment
    ) -> Set<UInt64> {
        var values: Set<UInt64> = [0]
        for index in touches[sector] ?? [] {
            let request = requests[index]
            guard request.issued < possible else { continue }
            let left =
                request.leaves.map { $0[sector - request.sectors.lowerBound] } ?? request.stamp
            let isCertain =
                request.answered.map { $0 < certain } ?? false
                || request.lengthBytes == lengthBytes
            if isCertain && !request.mayLeaveAll {
                values = [left]
            } else {
                values.insert(left)
            }
        }
        return values
    }

    /// What is wrong with `image` at such an instant; nil if nothing is.
    func fault(of image: SectorImage, certain: Moment, possible: Moment) -> String? {
        for sector in 0..<image.sectorCount {
            let value = image[sector]
            guard let touched = touches[sector] else {
                if value != 0 { return "sector \(sector), never written, holds \(text(value))" }
                continue
            }
            let allowed = values(
                of: sector, lengthBytes: image.lengthBytes, certain: certain, possible: possible)
            if let value, allowed.contains(value) { continue }
            return "sector \(sector) holds \(text(value)) and not one of \(allowed.sorted()); "
                + "its requests are \(touched.map { $0 + 1 }), those before note \(certain) certain"
        }
        return nil
    }

    private func text(_ value: UInt64?) -> String { value.map(String.init) ?? "a mixture" }
}

/// The stamps in the sectors of an image.
struct SectorImage {
    private var stamps: [UInt64?]
    let lengthBytes: Int

    /// The sectors in which there is one of `seams` count as what they hold before it if all after
    /// it is zeroes.
    init(_ bytes: [UInt8], seams: Set<Int> = []) {
        let sectorBytes = GuestHistory.sectorBytes
        lengthBytes = bytes.count
        stamps = bytes.withUnsafeBytes { bytes in
            stride(from: 0, to: bytes.count, by: sectorBytes).map { start in
                let sector = bytes.baseAddress! + start
                var count = min(sectorBytes, bytes.count - start)
                let inside = seams.first { $0 > start && $0 < start + count }
                if let end = inside, Self.isZero(bytes[end..<start + count]) {
                    count = end - start
                }
                guard count >= 8 else {
                    return memcmp(sector, [UInt8](repeating: 0, count: 8), count) == 0 ? 0 : nil
                }
                let stamp = sector.load(as: UInt64.self)
                // One word over and over.
                return memcmp(sector, sector + 8, count - 8) == 0 ? stamp : nil
            }
        }
    }

    private static func isZero(_ bytes: Slice<UnsafeRawBufferPointer>) -> Bool {
        bytes.allSatisfy { $0 == 0 }
    }

    var sectorCount: Int { stamps.count }

    /// The stamp that fills the sector, 0 for zeroes; nil if it is a mixture.
    subscript(sector: Int) -> UInt64? { stamps[sector] }

    /// The sectors in which the two differ; what lies beyond the end of one is zeroes.
    func differences(from other: SectorImage) -> [Int] {
        (0..<max(sectorCount, other.sectorCount)).filter { sector in
            let mine = sector < sectorCount ? stamps[sector] : 0
            let theirs = sector < other.sectorCount ? other.stamps[sector] : 0
            return mine != theirs || mine == nil
        }
    }

    /// The bytes of `count` bytes that a request of that stamp writes.
    static func bytes(stamp: UInt64, count: Int) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: count) { buffer, initializedCount in
            withUnsafeBytes(of: stamp) { word in
                for offset in stride(from: 0, to: count, by: 8) {
                    memcpy(buffer.baseAddress! + offset, word.baseAddress!, min(8, count - offset))
                }
            }
            initializedCount = count
        }
    }
}
