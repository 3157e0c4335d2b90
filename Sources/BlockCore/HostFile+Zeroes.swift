import Glibc

extension HostFile {
    /// Makes `range` read as zeroes: by deallocating it with `mayUnmap`, else by zeroing what is
    /// allocated, and by writing zeroes where the file system can do neither.
    package func writeZeroes(_ range: ByteRange, mayUnmap: Bool) throws(BlockError) {
        guard !range.isEmpty else { return }
        if try attempt({ () throws(BlockError) in
            if mayUnmap { try punchHole(range) } else { try zeroRange(range) }
        }) {
            return
        }
        let zeroes = BufferPool.shared.take(1 << 20)
        memset(zeroes.base, 0, zeroes.capacityBytes)
        var position = range.offset
        while position < range.end {
            let count = min(range.end - position, UInt64(zeroes.capacityBytes))
            try write(at: position, from: zeroes.prefix(Int(count)).readOnlyBytes)
            position += count
        }
    }

    /// Deallocates `range` where the file system can. Returns whether it did.
    package func deallocate(_ range: ByteRange) throws(BlockError) -> Bool {
        guard !range.isEmpty else { return true }
        return try attempt { () throws(BlockError) in try punchHole(range) }
    }

    /// Runs `body`. Returns false if the file cannot do that, or not at such offsets.
    private func attempt(_ body: () throws(BlockError) -> Void) throws(BlockError) -> Bool {
        do throws(BlockError) {
            try body()
            return true
        } catch {
            if error.kind == .unsupported || error.kind == .invalid { return false }
            throw error
        }
    }
}
