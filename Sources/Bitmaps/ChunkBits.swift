package import Synchronization

// The bits of one chunk in memory, and how a change to them can never be missed by whoever
// persists them.
//
// Beside its bits, a chunk has a state word: how many changes are under way (the low bits) and
// whether it changed since it was last taken (`changed`). The order is
//
//     whoever changes:   count a change in · change bits · set `changed` · count it out
//     whoever takes:     unless the state is zero: clear `changed` · copy the bits
//
// So a change either is in the copy or leaves `changed` behind. The count is for a third party:
// somebody who finds a bit already set returns at once and may rely on it being persisted by the
// next take, although the thread that set it has not come to `changed` yet. The take sees that
// thread's count, which was there before the bit was.

/// The 512 words of one chunk and its state; a pointer, without ownership. For `DirtyBitmap` and
/// the tests of the order above, nobody else.
///
/// `@unchecked Sendable` is true because every word is atomic, and the memory lives until the
/// bitmap that allocated it is destroyed.
package struct ChunkBits: @unchecked Sendable {
    package typealias Word = Atomic<UInt64>

    static let wordCount = BitmapChunk.granuleCount / 64
    private static let changed: UInt64 = 1 << 63
    /// The state has a cache line of its own before the bits.
    private static let headerWordCount = 8

    let address: UnsafeMutablePointer<Word>

    init(address: UnsafeMutablePointer<Word>) { self.address = address }

    /// A new chunk of clean granules.
    package static func allocate() -> ChunkBits {
        let count = headerWordCount + wordCount
        let address = UnsafeMutablePointer<Word>.allocate(capacity: count)
        for index in 0..<count { (address + index).initialize(to: Word(0)) }
        return ChunkBits(address: address)
    }

    package func deallocate() {
        address.deinitialize(count: Self.headerWordCount + Self.wordCount)
        address.deallocate()
    }

    /// The 64 granules of word `index`. Acquires: what was done before a bit was set is visible
    /// to who sees the bit.
    @inline(__always)
    package func word(_ index: Int) -> UInt64 {
        (address + Self.headerWordCount + index).pointee.load(ordering: .acquiring)
    }

    /// Whether the chunk changed since it was last taken, or is changing.
    package var needsPersisting: Bool { address.pointee.load(ordering: .acquiring) != 0 }

    /// Says that the bits differ from what is persisted.
    func setChanged() {
        address.pointee.bitwiseOr(Self.changed, ordering: .acquiringAndReleasing)
    }

    /// Sets the bits `first...last` of the chunk. Returns how many were clear.
    @inline(__always)
    func set(_ first: Int, _ last: Int) -> Int {
        let firstWord = first >> 6
        let mask = Self.mask(first, last, word: firstWord)
        if firstWord == last >> 6, word(firstWord) & mask == mask { return 0 }
        return change(first, last) { word, mask in
            guard word.load(ordering: .acquiring) & mask != mask else { return 0 }
            let old = word.bitwiseOr(mask, ordering: .acquiringAndReleasing).oldValue
            return (mask & ~old).nonzeroBitCount
        }
    }

    /// Clears the bits `first...last` of the chunk. Returns how many were set.
    func clear(_ first: Int, _ last: Int) -> Int {
        change(first, last) { word, mask in
            guard word.load(ordering: .acquiring) & mask != 0 else { return 0 }
            let old = word.bitwiseAnd(~mask, ordering: .acquiringAndReleasing).oldValue
            return (mask & old).nonzeroBitCount
        }
    }

    /// Sets the bits of `mask` in word `index`. Returns how many were clear.
    func merge(_ mask: UInt64, intoWord index: Int) -> Int {
        guard word(index) & mask != mask else { return 0 }
        address.pointee.add(1, ordering: .acquiringAndReleasing)
        let added = load(mask, intoWord: index)
        if added > 0 { setChanged() }
        address.pointee.subtract(1, ordering: .acquiringAndReleasing)
        return added
    }

    /// Sets the bits of `mask` in word `index` without saying that the chunk changed: for what
    /// comes from where it is persisted. Returns how many were clear.
    func load(_ mask: UInt64, intoWord index: Int) -> Int {
        let word = address + Self.headerWordCount + index
        let old = word.pointee.bitwiseOr(mask, ordering: .acquiringAndReleasing).oldValue
        return (mask & ~old).nonzeroBitCount
    }

    /// Copies the first `byteCount` bytes of the bits and takes them as persisted. The result is
    /// empty if no bit is set.
    package func take(byteCount: Int) -> [UInt8] {
        address.pointee.bitwiseAnd(~Self.changed, ordering: .acquiringAndReleasing)
        var isClean = true
        let bytes = [UInt8](unsafeUninitializedCapacity: Self.wordCount * 8) { buffer, count in
            let wordCount = (byteCount + 7) / 8
            for index in 0..<wordCount {
                let word = word(index)
                if word != 0 { isClean = false }
                UnsafeMutableRawBufferPointer(buffer).storeBytes(
                    of: word.littleEndian, toByteOffset: index * 8, as: UInt64.self)
            }
            count = byteCount
        }
        return isClean ? [] : bytes
    }

    private static func mask(_ first: Int, _ last: Int, word index: Int) -> UInt64 {
        let low = max(first - index * 64, 0)
        let high = min(last - index * 64, 63)
        return (~0 << UInt64(low)) & (~0 >> UInt64(63 - high))
    }

    /// Applies `body` to the words that hold the bits `first...last`, by the order that the head
    /// of this file demands. Returns the sum of what it returned.
    @inline(__always) @discardableResult
    package func change(
        _ first: Int, _ last: Int, _ body: (borrowing Word, UInt64) -> Int
    ) -> Int {
        address.pointee.add(1, ordering: .acquiringAndReleasing)
        var sum = 0
        for index in (first >> 6)...(last >> 6) {
            sum += body(
                (address + Self.headerWordCount + index).pointee,
                Self.mask(first, last, word: index))
        }
        if sum > 0 { setChanged() }
        address.pointee.subtract(1, ordering: .acquiringAndReleasing)
        return sum
    }
}
