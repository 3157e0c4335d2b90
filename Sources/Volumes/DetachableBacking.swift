import BlockCore
import Synchronization

// What lies behind the top image of a volume, in such a way that it can be taken away while guests
// read: requests that are under way are waited for, later ones find nothing there, which is zeroes.
// Whoever takes it away has seen to it that the top image needs it no more.

/// A backing device that shows another one until that is detached, and then has no bytes at all.
final class DetachableBacking: BlockDevice {
    private struct State {
        var device: (any BlockDevice)?
        var inFlightCount = 0
        var waiter: UnsafeContinuation<Void, Never>?
    }

    let nodeName: String
    var isReadOnly: Bool { true }
    let allocationUnitBytes: UInt64
    var lengthBytes: UInt64 { length.load(ordering: .acquiring) }
    var chainNodeCount: Int { state.withLock { $0.device?.chainNodeCount ?? 0 } }

    /// Whether the device is somebody else's, and not to be replaced.
    let isLent: Bool
    private let length: Atomic<UInt64>
    private let state: HostMutex<State>

    init(_ device: any BlockDevice, isLent: Bool = false) {
        self.isLent = isLent
        nodeName = device.nodeName
        allocationUnitBytes = device.allocationUnitBytes
        length = Atomic(device.lengthBytes)
        state = HostMutex(State(device: device))
    }

    /// A place where there is nothing yet.
    init(emptyUnder nodeName: String) {
        isLent = false
        self.nodeName = "what is below \(nodeName)"
        allocationUnitBytes = 512
        length = Atomic(0)
        state = HostMutex(State(device: nil))
    }

    /// Takes the device away; when this returns nothing uses it any more.
    func detach() async {
        length.store(0, ordering: .releasing)
        await withUnsafeContinuation { continuation in
            let isIdle = state.withLock { state in
                state.device = nil
                if state.inFlightCount > 0 { state.waiter = continuation }
                return state.inFlightCount == 0
            }
            if isIdle { continuation.resume() }
        }
    }

    /// Shows `device` where there is none.
    func attach(_ device: any BlockDevice) {
        state.withLock { $0.device = device }
        length.store(device.lengthBytes, ordering: .releasing)
    }

    func tryRead(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        guard let device = begin() else {
            destination.initializeMemory(as: UInt8.self, repeating: 0)
            return .done
        }
        defer { end() }
        return try device.tryRead(at: offset, into: destination)
    }

    func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        guard let device = begin() else {
            destination.bytes.initializeMemory(as: UInt8.self, repeating: 0)
            return
        }
        defer { end() }
        try await device.read(at: offset, into: destination)
    }

    func extents(in range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
        guard let device = begin() else {
            return [Extent(range: range, isZero: true, isHole: true)]
        }
        defer { end() }
        return try await device.extents(in: range, limit: limit)
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

    private func begin() -> (any BlockDevice)? {
        state.withLock { state in
            if state.device != nil { state.inFlightCount += 1 }
            return state.device
        }
    }

    private func end() {
        let waiter = state.withLock { state in
            state.inFlightCount -= 1
            guard state.inFlightCount == 0 else { return nil as UnsafeContinuation<Void, Never>? }
            defer { state.waiter = nil }
            return state.waiter
        }
        waiter?.resume()
    }
}
