package import BlockCore

// The steps of a write, with the third in pieces: the range is held from the beginning to the end, so
// that a freeze comes before or after all of it. All of it is marked, whatever was written.

extension Volume {
    package func tryBeginWrite(_ range: ByteRange) throws(BlockError) -> (any GradualWrite)? {
        try checkWritable(range, "write")
        guard let hold = locks.tryAcquire(range) else { return nil }
        guard mayWriteNow(range) else {
            locks.release(hold)
            return nil
        }
        return VolumeWrite(self, range, hold)
    }
}

private final class VolumeWrite: GradualWrite {
    private let volume: Volume
    private let range: ByteRange
    private let hold: RangeLock.Hold

    init(_ volume: Volume, _ range: ByteRange, _ hold: RangeLock.Hold) {
        self.volume = volume
        self.range = range
        self.hold = hold
    }

    func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool {
        check(offset, source.count)
        return try volume.top.tryWrite(at: offset, from: source)
    }

    func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        check(offset, source.count)
        try await volume.top.write(at: offset, from: source)
    }

    func end() {
        volume.mark(range)
        volume.locks.release(hold)
    }

    private func check(_ offset: UInt64, _ count: Int) {
        precondition(
            range.contains(ByteRange(offset: offset, lengthBytes: UInt64(count))),
            "a write beyond what it began")
    }
}
