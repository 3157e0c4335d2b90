import BlockCore

// What an image shows where it holds nothing itself, in such a way that it can be replaced while
// guests read: requests that are under way go on with the old one and are waited for, later ones
// find the new one, or nothing, which is zeroes. Whoever replaces it has seen to it that the image
// reads the same over both.
//
// The new one may be shorter, and whoever reads may have asked for the length before: what lies
// behind the end is zeroes, as behind the end of any backing image.

/// A backing device that shows another one, until that is replaced or taken away.
final class DetachableBacking: BlockDevice {
    private let shown: Switchable<(any BlockDevice)?>

    let nodeName: String
    let allocationUnitBytes: UInt64
    var isReadOnly: Bool { true }
    var lengthBytes: UInt64 { using { $0?.lengthBytes ?? 0 } }
    var chainNodeCount: Int { using { $0?.chainNodeCount ?? 0 } }
    /// Whether the device is somebody else's, and not to be replaced.
    let isLent: Bool

    init(_ device: any BlockDevice, isLent: Bool = false) {
        self.isLent = isLent
        nodeName = device.nodeName
        allocationUnitBytes = device.allocationUnitBytes
        shown = Switchable(device)
    }

    /// A place where there is nothing yet.
    init(emptyUnder nodeName: String) {
        isLent = false
        self.nodeName = "what is below \(nodeName)"
        allocationUnitBytes = 512
        shown = Switchable(nil)
    }

    /// Takes the device away; when this returns nothing uses it any more.
    func detach() async { await show(nil) }

    /// Shows `device` from now on; when this returns nothing uses the one before any more. One at a
    /// time.
    func attach(_ device: any BlockDevice) async { await show(device) }

    private func show(_ device: (any BlockDevice)?) async {
        shown.replace(with: device)
        await shown.drain()
    }

    func tryRead(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        let use = shown.begin()
        defer { shown.end(use) }
        let held = Self.bytes(of: use.value, at: offset, count: destination.count)
        UnsafeMutableRawBufferPointer(rebasing: destination[held...])
            .initializeMemory(as: UInt8.self, repeating: 0)
        guard held > 0, let device = use.value else { return .done }
        return try device.tryRead(
            at: offset, into: UnsafeMutableRawBufferPointer(rebasing: destination[..<held]))
    }

    func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        let use = shown.begin()
        defer { shown.end(use) }
        let held = Self.bytes(of: use.value, at: offset, count: destination.count)
        UnsafeMutableRawBufferPointer(rebasing: destination.bytes[held...])
            .initializeMemory(as: UInt8.self, repeating: 0)
        guard held > 0, let device = use.value else { return }
        try await device.read(at: offset, into: destination.slice(0, held))
    }

    func extents(in range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
        let use = shown.begin()
        defer { shown.end(use) }
        let count = Int(clamping: range.lengthBytes)
        let held = UInt64(Self.bytes(of: use.value, at: range.offset, count: count))
        guard held > 0, let device = use.value else {
            let depth = max((use.value?.chainNodeCount ?? 1) - 1, 0)
            return [Extent(range: range, isZero: true, isHole: true, depth: depth)]
        }
        return try await device.extents(
            in: ByteRange(offset: range.offset, lengthBytes: held), limit: limit)
    }

    func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool {
        throw refusal("write")
    }

    func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        throw refusal("write")
    }

    func writeZeroes(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
        throw refusal("write zeroes")
    }

    func discard(_ range: ByteRange) async throws(BlockError) { throw refusal("discard") }

    func flush() async throws(BlockError) {}

    func close() async throws(BlockError) {}

    private func refusal(_ operation: String) -> BlockError {
        BlockError(.readOnly, operation, on: nodeName, detail: "backing images do not change")
    }

    private func using<T>(_ body: ((any BlockDevice)?) -> T) -> T {
        let use = shown.begin()
        defer { shown.end(use) }
        return body(use.value)
    }

    /// How many of `count` bytes at `offset` lie before the end of `device`.
    private static func bytes(
        of device: (any BlockDevice)?, at offset: UInt64, count: Int
    ) -> Int {
        guard let device, device.lengthBytes > offset else { return 0 }
        return Int(min(UInt64(count), device.lengthBytes - offset))
    }
}
