package import BlockCore

/// A filter that lets requests through no faster than its group allows.
///
/// Reads count as reads; writes, zeroes and discards as writes; flushes and maps are free.
package final class Throttle: BlockFilter {
    package let child: any BlockDevice
    private let group: ThrottleGroup

    package init(_ child: any BlockDevice, group: ThrottleGroup) {
        self.child = child
        self.group = group
    }

    /// Nothing is promised to be fast that may have to wait.
    package func canZeroFast(_ range: ByteRange, mayUnmap: Bool) -> Bool { false }

    package func tryRead(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        let bytes = UInt64(destination.count)
        guard group.tryAdmit(bytes, isWrite: false) else { return .refused }
        let attempt = try child.tryRead(at: offset, into: destination)
        // What is not done comes again by the other face, and counts there.
        if attempt != .done { group.giveBack(bytes, isWrite: false) }
        return attempt == .done ? .done : .refused
    }

    package func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool {
        let bytes = UInt64(source.count)
        guard group.tryAdmit(bytes, isWrite: true) else { return false }
        let isDone = try child.tryWrite(at: offset, from: source)
        if !isDone { group.giveBack(bytes, isWrite: true) }
        return isDone
    }

    package func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        await group.admit(UInt64(destination.count), isWrite: false)
        try await child.read(at: offset, into: destination)
    }

    package func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        await group.admit(UInt64(source.count), isWrite: true)
        try await child.write(at: offset, from: source)
    }

    package func writeZeroes(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
        await group.admit(range.lengthBytes, isWrite: true)
        try await child.writeZeroes(range, mayUnmap: mayUnmap)
    }

    package func discard(_ range: ByteRange) async throws(BlockError) {
        await group.admit(range.lengthBytes, isWrite: true)
        try await child.discard(range)
    }
}
