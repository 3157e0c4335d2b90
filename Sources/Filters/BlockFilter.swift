package import BlockCore

// A filter is a device over one other, whose content it shows, and which does something besides: it
// delays, it copies, it fails. What it does not say otherwise goes to the other as it came, so that a
// filter has the code of its own purpose and no more.
//
// Its child belongs to it: it is closed with the filter. Who orders overlapping writes does so above
// the filter, as above any device.

/// A device that shows what another one holds.
package protocol BlockFilter: BlockDevice {
    /// What it stands over.
    var child: any BlockDevice { get }
}

extension BlockFilter {
    package var nodeName: String { child.nodeName }
    package var lengthBytes: UInt64 { child.lengthBytes }
    package var isReadOnly: Bool { child.isReadOnly }
    package var allocationUnitBytes: UInt64 { child.allocationUnitBytes }
    package var chainNodeCount: Int { child.chainNodeCount }

    package func canZeroFast(_ range: ByteRange, mayUnmap: Bool) -> Bool {
        child.canZeroFast(range, mayUnmap: mayUnmap)
    }

    package func tryRead(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        try child.tryRead(at: offset, into: destination)
    }

    package func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool {
        try child.tryWrite(at: offset, from: source)
    }

    package func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        try await child.read(at: offset, into: destination)
    }

    package func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        try await child.write(at: offset, from: source)
    }

    package func writeZeroes(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
        try await child.writeZeroes(range, mayUnmap: mayUnmap)
    }

    package func discard(_ range: ByteRange) async throws(BlockError) {
        try await child.discard(range)
    }

    package func flush() async throws(BlockError) { try await child.flush() }

    package func extents(in range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
        try await child.extents(in: range, limit: limit)
    }

    package func close() async throws(BlockError) { try await child.close() }
}
