import Foundation
import TestSupport

/// A running `guest.py`, which writes to a volume and logs what it does.
final class Guest {
    private let client: ScriptedClient
    private let logPath: String

    init(uri: String, seed: UInt32, log: String) throws {
        logPath = log
        try Data().write(to: URL(fileURLWithPath: log))
        client = try ScriptedClient("guest.py", [uri, "\(seed)", log]) {
            try !Self.requests(log).requests.isEmpty
        }
    }

    /// Lets it finish what is in flight, and returns its log.
    func finish() throws -> GuestLog {
        try client.finish()
        return try Self.requests(logPath)
    }

    /// Waits until it has lost its server, and returns its log.
    func waitForLoss() throws -> GuestLog {
        try client.wait(for: 3)
        return try Self.requests(logPath)
    }

    /// Ends it at once, with requests in flight, and returns its log.
    func kill() throws -> GuestLog {
        client.end()
        return try Self.requests(logPath)
    }

    private static func requests(_ logPath: String) throws -> GuestLog {
        GuestLog(try String(contentsOfFile: logPath, encoding: .utf8))
    }
}

/// What a guest did, from its log.
struct GuestLog {
    struct Request {
        enum Kind: String { case data, zero, trim }

        let number: UInt64
        let cell: Int
        let kind: Kind
        let issued: Int64
        /// Nil if it was never acknowledged.
        var acknowledged: Int64?
    }

    var cells: [Range<Int>] = []
    /// In order of issue.
    var requests: [Request] = []

    init(_ text: String) {
        var indexes: [UInt64: Int] = [:]
        // A last line without its end was cut off by a kill.
        for line in text.split(separator: "\n", omittingEmptySubsequences: false).dropLast() {
            let words = line.split(separator: " ")
            switch words.first {
            case "cell": cells.append(Int(words[2])!..<Int(words[2])! + Int(words[3])!)
            case "issue":
                indexes[UInt64(words[1])!] = requests.count
                requests.append(
                    Request(
                        number: UInt64(words[1])!, cell: Int(words[2])!,
                        kind: Request.Kind(rawValue: String(words[3]))!, issued: Int64(words[4])!))
            case "ack": requests[indexes[UInt64(words[1])!]!].acknowledged = Int64(words[2])!
            default: break
            }
        }
    }

    /// What is wrong with `image` as the content at the instant of a freeze, the content before
    /// the guest's first request being `before`: nil if nothing is.
    ///
    /// Every request acknowledged before the instant must be in, none issued after it may be. The
    /// instant is known to the millisecond that it fell into.
    ///
    /// Of a request that was under way when the guest `wasKilled` a part may be in: the rest of it
    /// has not come.
    func fault(
        of image: [UInt8], before: [UInt8], freezeMilliseconds: Int64, wasKilled: Bool = false
    ) -> String? {
        let begin = freezeMilliseconds * 1_000_000
        let end = begin + 1_000_000
        return fault(
            of: image, before: before, isTorn: { wasKilled && $0.acknowledged == nil }
        ) { request in
            if let acknowledged = request.acknowledged, acknowledged < begin { return .inside }
            return request.issued > end ? .outside : .unknown
        }
    }

    /// What is wrong with `image` as the content after the server was killed: every acknowledged
    /// request must be in; of the others each byte may have been written or not.
    func faultAfterKill(of image: [UInt8], before: [UInt8]) -> String? {
        fault(of: image, before: before, isTorn: { $0.acknowledged == nil }) { request in
            request.acknowledged == nil ? .unknown : .inside
        }
    }

    private enum Place { case inside, unknown, outside }

    private func fault(
        of image: [UInt8], before: [UInt8], isTorn: (Request) -> Bool,
        place: (Request) -> Place
    ) -> String? {
        guard image.count == before.count else {
            return "\(image.count) bytes instead of \(before.count)"
        }
        var outside = 0
        for (index, cell) in cells.enumerated() {
            guard image[outside..<cell.lowerBound] == before[outside..<cell.lowerBound] else {
                return "bytes that nobody wrote differ between \(outside) and \(cell.lowerBound)"
            }
            outside = cell.upperBound
            let history = requests.filter { $0.cell == index && place($0) != .outside }
            guard
                !isPossible(
                    Array(image[cell]), Array(before[cell]), history, isTorn: isTorn,
                    isCertain: { place($0) == .inside })
            else { continue }
            let kept = history.suffix(3).map { "\($0.kind) \($0.number)" }
            return "cell \(index) at \(cell.lowerBound), \(cell.count) bytes, is none of what it "
                + "may be; its last requests: \(kept.joined(separator: ", "))"
        }
        guard image[outside...] == before[outside...] else {
            return "bytes that nobody wrote differ after \(outside)"
        }
        return nil
    }

    /// Whether `content` is what a cell may hold after `history`, which may have stopped after
    /// any request from the last certain one on.
    private func isPossible(
        _ content: [UInt8], _ before: [UInt8], _ history: [Request],
        isTorn: (Request) -> Bool, isCertain: (Request) -> Bool
    ) -> Bool {
        // What came before the last certain request that says every byte is of no interest.
        let start = history.lastIndex { isCertain($0) && $0.kind != .trim } ?? 0
        var state = CellState(layers: [.bytes(before)])
        var candidates = [state]
        for request in history[start...] {
            let next = state.after(request)
            state = isTorn(request) ? state.or(next) : next
            if isCertain(request) { candidates = [] }
            candidates.append(state)
        }
        return candidates.contains { $0.allows(content) }
    }
}

/// What a cell may hold: each of its bytes is that of one of the layers.
private struct CellState {
    enum Layer {
        case bytes([UInt8])
        case data(UInt64)
        case zero
    }

    var layers: [Layer]

    func after(_ request: GuestLog.Request) -> CellState {
        switch request.kind {
        case .data: CellState(layers: [.data(request.number)])
        case .zero: CellState(layers: [.zero])
        // A discarded byte reads as before or as zero.
        case .trim: CellState(layers: layers + [.zero])
        }
    }

    func or(_ other: CellState) -> CellState { CellState(layers: layers + other.layers) }

    func allows(_ content: [UInt8]) -> Bool {
        let alternatives = layers.map { $0.bytes(content.count) }
        if alternatives.contains(content) { return true }
        return alternatives.count > 1
            && content.indices.allSatisfy { index in
                alternatives.contains { $0[index] == content[index] }
            }
    }
}

extension CellState.Layer {
    fileprivate func bytes(_ count: Int) -> [UInt8] {
        switch self {
        case .bytes(let bytes): return bytes
        case .zero: return [UInt8](repeating: 0, count: count)
        case .data(let number):
            let words = [UInt64](repeating: number.littleEndian, count: count / 8 + 1)
            return words.withUnsafeBytes { Array($0.prefix(count)) }
        }
    }
}
