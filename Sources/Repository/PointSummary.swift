package import BlockCore

/// What a list shows of one point.
package struct PointSummary: Sendable {
    package var id: PointID
    /// Where in the repository the point lies.
    package var folder: String
    /// Nil if there is none that can be trusted.
    package var manifest: Manifest?
    /// Why the point cannot be restored as it is: a damaged or missing manifest, or a chain that
    /// has a gap. Nil for a good one; only `verify` reads the data.
    package var problem: BlockError?
}

/// What recovery learns about a point that was being made when the agent went down.
package enum PointPresence: Sendable {
    /// It was committed.
    case whole
    /// It was not, and never will be.
    case absent
}

/// Which part of a point's data a verification reads: every `of`-th piece of it.
package struct VerifySubset: Hashable, Sendable {
    package let part: UInt64
    package let of: UInt64

    /// Everything.
    package static let all = VerifySubset(unchecked: 1, of: 1)

    /// Part `part` of `of`, counted from 1; nil if there is no such part.
    package init?(part: UInt64, of: UInt64) {
        guard part >= 1, part <= of else { return nil }
        self.init(unchecked: part, of: of)
    }

    private init(unchecked part: UInt64, of: UInt64) {
        self.part = part
        self.of = of
    }

    /// Whether the part holds piece number `index`.
    func contains(_ index: UInt64) -> Bool { index % of == part - 1 }
}

/// What a verification found.
package struct VerifyReport: Sendable {
    package var point: PointID
    /// What is wrong with the manifest, the table, the chain or the image's header.
    package var problems: [BlockError] = []
    /// Where data does not match its digest, zeroes are not zero, or reading failed; ascending.
    package var badRanges: [ByteRange] = []
    /// The bytes of the volume that were compared.
    package var checkedBytes: UInt64 = 0

    package var isGood: Bool { problems.isEmpty && badRanges.isEmpty }

    /// Adds a problem, once.
    mutating func note(_ problem: BlockError) {
        if !problems.contains(problem) { problems.append(problem) }
    }
}
