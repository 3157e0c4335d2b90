import BlockCore

/// A read-only view of a device that ends earlier than the device does: an image is a multiple of
/// 512 bytes long, the volume in it need not be.
final class ExactLengthDevice: BlockDevice {
    let lengthBytes: UInt64
    private let device: any BlockDevice
    private let below: [any BlockDevice]
    private let locks: [ImageLock]

    /// Shows the first `lengthBytes` of `device`, and closes it with itself, and then its backing
    /// devices, which are `below` with the base first. Releases `locks` at the end.
    init(
        _ device: any BlockDevice, below: [any BlockDevice], locks: [ImageLock],
        lengthBytes: UInt64
    ) {
        precondition(lengthBytes <= device.lengthBytes)
        self.device = device
        self.below = below
        self.locks = locks
        self.lengthBytes = lengthBytes
    }

    var nodeName: String { device.nodeName }
    var isReadOnly: Bool { true }
    var allocationUnitBytes: UInt64 { device.allocationUnitBytes }
    var chainNodeCount: Int { device.chainNodeCount }

    func tryRead(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        try checkInside(
            ByteRange(offset: offset, lengthBytes: UInt64(destination.count)), "read")
        return try device.tryRead(at: offset, into: destination)
    }

    func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool {
        throw refusal("write")
    }

    func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        try checkInside(
            ByteRange(offset: offset, lengthBytes: UInt64(destination.count)), "read")
        try await device.read(at: offset, into: destination)
    }

    func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        throw refusal("write")
    }

    func writeZeroes(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
        throw refusal("write zeroes")
    }

    func discard(_ range: ByteRange) async throws(BlockError) {
        throw refusal("discard")
    }

    func flush() async throws(BlockError) {}

    func extents(in range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
        try checkInside(range, "map")
        return try await device.extents(in: range, limit: limit)
    }

    func close() async throws(BlockError) {
        defer { for lock in locks { lock.release() } }
        try await device.close()
        for device in below.reversed() { try await device.close() }
    }

    private func refusal(_ operation: String) -> BlockError {
        BlockError(.readOnly, operation, on: nodeName, detail: "restore points do not change")
    }
}
