package import BlockCore
package import Volumes

/// A volume as its guests use it: what they read is stored in its top while its backing mode is
/// "cor". What jobs read is not, nor what a backup keeps.
package final class GuestVolume: BlockFilter {
    private let volume: Volume

    package var child: any BlockDevice { volume }

    package init(_ volume: Volume) { self.volume = volume }

    package func tryRead(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        if volume.copiesReads, !destination.isEmpty { return .refused }
        return try volume.tryRead(at: offset, into: destination)
    }

    /// A guest gets what it reads even if that cannot be stored, for want of space for example.
    package func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        let range = ByteRange(offset: offset, lengthBytes: UInt64(destination.count))
        try volume.checkInside(range, "read")
        if volume.copiesReads, !range.isEmpty { try? await volume.storeBacking(of: range) }
        try await volume.read(at: offset, into: destination)
    }

    package func tryBeginWrite(_ range: ByteRange) throws(BlockError) -> (any GradualWrite)? {
        try volume.tryBeginWrite(range)
    }

    /// The volume goes on.
    package func close() async throws(BlockError) { try await volume.flush() }
}
