/// An entry of an L2 table: how one guest cluster is stored.
struct L2Entry: Sendable, Equatable {
    /// Host offset and flags, or the place of the compressed form.
    var word: UInt64
    /// With subclusters: in the low half which of them are stored, in the high half which read as
    /// zeroes. Else meaningless.
    var units: UInt64 = 0

    /// A cluster that nothing was ever written to.
    static let unallocated = L2Entry(word: 0)
    /// All subclusters, as stored.
    static let allStored: UInt64 = 0xFFFF_FFFF
    /// All subclusters, as zeroes.
    static let allZero: UInt64 = 0xFFFF_FFFF << 32

    /// The host cluster `host`, to which nothing else refers, with the subclusters `units` stored.
    static func own(_ host: UInt64, units: UInt64 = allStored) -> L2Entry {
        L2Entry(word: host | Qcow2Layout.copied, units: units)
    }

    var isCompressed: Bool { word & Qcow2Layout.compressed != 0 }
    var host: UInt64 { word & Qcow2Layout.offsetMask }
}

extension [UInt64] {
    /// The entry `index` of a table of words, `entryWords` of them for each entry.
    @inline(__always)
    func l2Entry(_ index: Int, entryWords: Int) -> L2Entry {
        entryWords == 1
            ? L2Entry(word: self[index])
            : L2Entry(word: self[2 * index], units: self[2 * index + 1])
    }
}

extension [L2Entry] {
    /// The entries as words of a table.
    func words(entryWords: Int) -> [UInt64] {
        entryWords == 1 ? map(\.word) : flatMap { [$0.word, $0.units] }
    }
}
