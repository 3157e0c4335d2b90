import BlockCore

/// A backing that claims to have content everywhere and has only zeroes.
final class OpaqueBacking: BlockDevice {
    let nodeName = "what is below the target"
    let lengthBytes: UInt64
    var isReadOnly: Bool { true }
    var allocationUnitBytes: UInt64 { 512 }

    init(lengthBytes: UInt64) { self.lengthBytes = lengthBytes }

    private func refusal(_ operation: String) -> BlockError {
        BlockError(.invalid, operation, on: nodeName, detail: "a mirror copies whole clusters")
    }

    func tryRead(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        destination.initializeMemory(as: UInt8.self, repeating: 0)
        return .done
    }

    func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool { throw refusal("write") }

    /// A driver may look at what it is going to overwrite whole, to see whether there is anything to
    /// lose: there is not.
    func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        destination.bytes.initializeMemory(as: UInt8.self, repeating: 0)
    }

    func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        throw refusal("write")
    }

    func writeZeroes(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
        throw refusal("write zeroes")
    }

    func discard(_ range: ByteRange) async throws(BlockError) { throw refusal("discard") }

    func flush() async throws(BlockError) {}

    func extents(in range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
        [Extent(range: range, isZero: false, isHole: false)]
    }

    func close() async throws(BlockError) {}
}
