package import BlockCore
import Filters
package import Volumes

// A node is what users, exports and jobs hold of an opened device. It adds to the device what none of
// its drivers has:
//
//   order      overlapping changes wait for each other, as a device asks of whoever uses it
//   users      who uses it is known, so that it is not closed under them
//   options    discards and written zeroes are treated as the user said
//
// Closing a node is the matter of `NodeStore`; what stands on it only flushes it.

/// An opened device of the block graph, with a name.
package final class Node: BlockDevice {
    package let name: String
    package let options: NodeOptions
    /// The node with which it was opened and is closed; nil for one that a user opened.
    package let owner: String?
    private let ownImages: ImageChain?
    /// What opened it, if it is a filter over another node or volume.
    package let childName: String?
    /// The volume that it shows, or that is below it.
    package let volume: Volume?
    let device: any BlockDevice
    /// Whether files and nodes below belong to it, and are closed with it.
    let below: [NodeHold]

    private struct State: Sendable {
        var users: [String] = []
        var isGone = false
    }

    private let ranges = RangeLock()
    private let state = HostMutex(State())

    init(
        _ options: NodeOptions, owner: String?, device: any BlockDevice, images: ImageChain? = nil,
        childName: String? = nil, volume: Volume? = nil, below: [NodeHold] = []
    ) {
        name = options.name ?? ""
        self.options = options
        self.owner = owner
        self.device = device
        ownImages = images
        self.childName = childName
        self.volume = volume
        self.below = below
    }

    /// The images that it consists of; nil for a filter, and for a file that a format stands on.
    package var images: ImageChain? { ownImages ?? (device as? FileNode)?.images }

    /// The images, if they depend on no other node.
    package var independentImages: ImageChain? {
        images.flatMap { $0.standsOnOthers ? nil : $0 }
    }

    /// The node that shows through this one: what is below a filter, or the backing of an image if
    /// that was opened by itself.
    package var shownBelow: GraphNode? {
        switch options.driver {
        case .file, .nbd, .raw: nil
        case .qcow2: images?.standsOnOthers == true ? below.last?.target : nil
        case .throttle, .copyOnRead, .copyBeforeWrite, .snapshotAccess, .faultInjection:
            below.first?.target
        }
    }

    /// The images, if what they stand on is that volume.
    package func imagesStanding(on volume: Volume) -> ImageChain? {
        guard let images, images.standsOnOthers, case .volume(let below) = self.below.last?.target,
            below === volume
        else { return nil }
        return images
    }

    // MARK: Users

    /// Who uses it: exports, jobs, and nodes that stand on it.
    package var users: [String] { state.withLock { $0.users } }

    /// Keeps it from being closed until `release`.
    package func hold(for user: String) throws(BlockError) {
        try state.withLock { (state) throws(BlockError) in
            guard !state.isGone else {
                throw BlockError(.notFound, "use the node", on: name, detail: "it was removed")
            }
            state.users.append(user)
        }
    }

    /// The same for who reads and writes it.
    package func use(for user: String) async throws(BlockError) {
        try hold(for: user)
        do throws(BlockError) { try await activate() } catch {
            release(by: user)
            throw error
        }
    }

    /// Has it ready for requests.
    func activate() async throws(BlockError) { try await (device as? FileNode)?.activate() }

    /// Undoes one `hold` of the same user.
    package func release(by user: String) {
        state.withLock { state in
            if let index = state.users.firstIndex(of: user) { state.users.remove(at: index) }
        }
    }

    /// Whether its images have become a volume's, or it was closed.
    package var isGone: Bool { state.withLock { $0.isGone } }

    /// Its images are a volume's from now on.
    package func lose() { state.withLock { $0.isGone = true } }

    /// Nobody uses it from now on; false if somebody does.
    func leave(besides user: String? = nil) -> Bool {
        state.withLock { state in
            guard state.users.allSatisfy({ $0 == user }), !state.isGone else { return false }
            state.isGone = true
            return true
        }
    }

    /// Undoes `leave`.
    func stay() { state.withLock { $0.isGone = false } }

    // MARK: The device

    package var nodeName: String { name.isEmpty ? device.nodeName : name }
    package var lengthBytes: UInt64 { device.lengthBytes }
    package var isReadOnly: Bool { options.isReadOnly || device.isReadOnly }
    package var allocationUnitBytes: UInt64 { device.allocationUnitBytes }
    package var chainNodeCount: Int { device.chainNodeCount }

    package func canZeroFast(_ range: ByteRange, mayUnmap: Bool) -> Bool {
        device.canZeroFast(range, mayUnmap: mayUnmap && options.unmaps)
    }

    package func tryRead(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        try device.tryRead(at: offset, into: destination)
    }

    package func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool {
        let range = ByteRange(offset: offset, lengthBytes: UInt64(source.count))
        try checkChange(range, "write")
        if options.zeroDetection != .off, source.isAllZero { return source.isEmpty }
        guard let hold = ranges.tryAcquire(range) else { return false }
        defer { ranges.release(hold) }
        return try device.tryWrite(at: offset, from: source)
    }

    package func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        try await device.read(at: offset, into: destination)
    }

    package func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        let range = ByteRange(offset: offset, lengthBytes: UInt64(source.count))
        if options.zeroDetection != .off, source.readOnlyBytes.isAllZero {
            return try await writeZeroes(range, mayUnmap: options.zeroDetection == .unmap)
        }
        try await changing(range, "write") { () async throws(BlockError) in
            try await device.write(at: offset, from: source)
        }
    }

    package func writeZeroes(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
        try await changing(range, "write zeroes") { () async throws(BlockError) in
            try await device.writeZeroes(range, mayUnmap: mayUnmap && options.unmaps)
        }
    }

    package func discard(_ range: ByteRange) async throws(BlockError) {
        try await changing(range, "discard") { () async throws(BlockError) in
            if options.unmaps { try await device.discard(range) }
        }
    }

    package func flush() async throws(BlockError) {
        if !device.isReadOnly { try await device.flush() }
    }

    package func extents(in range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
        try await device.extents(in: range, limit: limit)
    }

    /// What stands on it is done with it; it goes on.
    package func close() async throws(BlockError) { try await flush() }

    private func changing(
        _ range: ByteRange, _ operation: String, _ body: () async throws(BlockError) -> Void
    ) async throws(BlockError) {
        try checkChange(range, operation)
        let hold = await ranges.acquire(range)
        defer { ranges.release(hold) }
        try await body()
    }

    private func checkChange(_ range: ByteRange, _ operation: String) throws(BlockError) {
        try checkInside(range, operation)
        if isReadOnly { throw BlockError(.readOnly, operation, on: nodeName, range: range) }
    }
}

/// A node or volume that another node stands on, for as long as that is open.
struct NodeHold: Sendable {
    let target: GraphNode
    let user: String
    /// Whether it was opened with the node that stands on it.
    let isOwned: Bool
}

/// What a name of the block graph stands for.
package enum GraphNode: Sendable {
    case volume(Volume)
    case node(Node)

    /// What reads and writes go to; closing it only flushes.
    package var device: any BlockDevice {
        switch self {
        case .volume(let volume): SharedDevice(volume)
        case .node(let node): node
        }
    }

    package var name: String {
        switch self {
        case .volume(let volume): volume.name
        case .node(let node): node.name
        }
    }
}
