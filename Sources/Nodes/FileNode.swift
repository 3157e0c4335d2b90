import BlockCore
import Volumes

/// What a `file` node is: a file of the host, which is opened only when it is used by itself. An image
/// format that stands on it opens the file as its own.
final class FileNode: BlockDevice {
    let path: String
    private let isForReading: Bool
    private let isDirect: Bool
    private let chain = HostMutex<ImageChain?>(nil)

    init(_ path: String, _ options: NodeOptions) throws(BlockError) {
        self.path = path
        isForReading = options.isReadOnly
        isDirect = options.isDirect
        guard HostFile.identity(of: path) != nil else {
            throw BlockError(
                .notFound, "add a node", on: path,
                detail: "Could not open '\(path)': No such file or directory")
        }
    }

    /// The raw image that it is while it is used by itself.
    var images: ImageChain? { chain.withLock { $0 } }

    /// Opens the file, if it is not open.
    func activate() async throws(BlockError) {
        guard images == nil else { return }
        let opened = try await IOPool.guest.run { [self] () throws(BlockError) in
            try ImageOpener.open(
                path: path, format: .raw, readOnly: isForReading, isDirect: isDirect, pool: .guest)
        }
        let isFirst = chain.withLock { chain in
            if chain == nil { chain = opened }
            return chain === opened
        }
        if !isFirst { try await opened.close() }
    }

    /// Closes the file again, for a format that is to open it.
    func deactivate() async throws(BlockError) {
        let opened = chain.withLock { chain in
            defer { chain = nil }
            return chain
        }
        try await opened?.close()
    }

    private func opened() throws(BlockError) -> any BlockDevice {
        if let device = images?.top { return device }
        throw BlockError(.busy, "use", on: path, detail: "an image format stands on it")
    }

    var nodeName: String { path }
    var isReadOnly: Bool { isForReading }
    var allocationUnitBytes: UInt64 { images?.top.allocationUnitBytes ?? 4096 }

    var lengthBytes: UInt64 {
        if let device = images?.top { return device.lengthBytes }
        return (try? HostFile(path: path, access: .readOnly).sizeBytes()) ?? 0
    }

    func canZeroFast(_ range: ByteRange, mayUnmap: Bool) -> Bool {
        images?.top.canZeroFast(range, mayUnmap: mayUnmap) ?? false
    }

    func tryRead(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        try opened().tryRead(at: offset, into: destination)
    }

    func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool { try opened().tryWrite(at: offset, from: source) }

    func read(at offset: UInt64, into destination: BufferSlice) async throws(BlockError) {
        try await opened().read(at: offset, into: destination)
    }

    func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        try await opened().write(at: offset, from: source)
    }

    func writeZeroes(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
        try await opened().writeZeroes(range, mayUnmap: mayUnmap)
    }

    func discard(_ range: ByteRange) async throws(BlockError) {
        try await opened().discard(range)
    }

    func flush() async throws(BlockError) { try await images?.top.flush() }

    func extents(in range: ByteRange, limit: Int) async throws(BlockError) -> [Extent] {
        try await opened().extents(in: range, limit: limit)
    }

    func close() async throws(BlockError) { try await deactivate() }
}
