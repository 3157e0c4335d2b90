import BlockCore
import Synchronization
import TestSupport

@testable import Volumes

/// A guest that changes a part of a volume, one request after another without a pause, and knows what
/// the part held after each of them.
final class MirrorGuest: Sendable {
    fileprivate struct Change: Sendable {
        let offset: Int
        let bytes: [UInt8]
    }

    let range: ByteRange
    private let before: [UInt8]
    private let changes = Mutex<[Change]>([])
    private let isOver = Atomic<Bool>(false)

    /// A guest of `range` of a volume, which holds `before` there.
    init(_ range: ByteRange, before: [UInt8]) {
        self.range = range
        self.before = before
    }

    /// How many requests were answered.
    var count: Int { changes.withLock { $0.count } }

    /// Has it end with its next request.
    func stop() { isOver.store(true, ordering: .relaxed) }

    /// Changes `volume` until `stop`.
    func run(_ volume: Volume, _ random: SplitMix64) async throws {
        var random = random
        while !isOver.load(ordering: .relaxed) {
            let count = Int.random(in: 1...40_000, using: &random)
            let inner = Int.random(in: 0...Int(range.lengthBytes) - count, using: &random)
            let place = ByteRange(
                offset: range.offset + UInt64(inner), lengthBytes: UInt64(count))
            switch Int.random(in: 0..<10, using: &random) {
            case 0:
                try await volume.writeZeroes(place, mayUnmap: Bool.random(using: &random))
                note(inner, [UInt8](repeating: 0, count: count))
            case 1:
                try await volume.discard(place)
                note(inner, try await volume.bytes(at: Int(place.offset), count))
            default:
                let bytes = random.bytes(count)
                try await volume.put(bytes, at: Int(place.offset), now: Bool.random(using: &random))
                note(inner, bytes)
            }
            if count % 3 == 0 { try await Task.sleep(for: .milliseconds(1)) }
        }
    }

    private func note(_ offset: Int, _ bytes: [UInt8]) {
        changes.withLock { $0.append(Change(offset: offset, bytes: bytes)) }
    }

    /// Whether `content`, of the whole disk, has in this part all that was done.
    func isFinal(_ content: [UInt8]) -> Bool {
        let final = changes.withLock { $0 }.reduce(into: before) { $0.apply($1) }
        return part(content).firstDifference(from: final) == nil
    }

    /// After how many requests the part looked like that in `content`; nil if it never did.
    func moment(of content: [UInt8]) -> Int? {
        let part = part(content)
        var then = before
        if then.firstDifference(from: part) == nil { return 0 }
        for (index, change) in changes.withLock({ $0 }).enumerated() {
            then.apply(change)
            if then.firstDifference(from: part) == nil { return index + 1 }
        }
        return nil
    }

    private func part(_ content: [UInt8]) -> [UInt8] {
        Array(content[Int(range.offset)..<Int(range.end)])
    }
}

extension [UInt8] {
    fileprivate mutating func apply(_ change: MirrorGuest.Change) {
        replaceSubrange(change.offset..<change.offset + change.bytes.count, with: change.bytes)
    }
}
