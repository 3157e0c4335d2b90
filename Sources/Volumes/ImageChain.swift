package import BlockCore
import DriverQcow2

/// One opened image of a chain, with the lock under which it was opened.
package struct ImageNode: Sendable {
    package let path: String
    package let format: ImageFormat
    /// Whether its content bypasses the page cache.
    let isDirect: Bool
    package let device: any BlockDevice
    /// nil where there are no locks: on an NBD server.
    let lock: ImageLock?
    /// The lock of the file in which a qcow2 image keeps its data, if it does not do so itself.
    let dataLock: ImageLock?
    /// How it looked when it had been locked and nothing else had been done.
    let found: ImageFingerprint

    /// What opens the path, as the catalog names it.
    var driver: String { lock == nil ? "nbd" : "file" }
}

/// A top image and the images behind it, opened and locked.
///
/// The locks are held from before anything was read until `unlock`, or until the last reference
/// goes. Only the top may be open for writing.
package final class ImageChain: Sendable {
    /// From the top down; never empty.
    package let nodes: [ImageNode]

    init(nodes: [ImageNode]) {
        precondition(!nodes.isEmpty)
        self.nodes = nodes
    }

    /// The device that shows the whole chain.
    package var top: any BlockDevice { nodes[0].device }

    /// Makes the top durable with its times, unless it is only read: a power loss must not leave it
    /// older than what is recorded of it now. Blocks.
    func flushTimes() throws(BlockError) {
        guard !top.isReadOnly else { return }
        try nodes[0].dataLock?.flush()
        try nodes[0].lock?.flush()
    }

    /// Flushes and closes all images, and gives them up.
    package func close() async throws(BlockError) {
        defer { unlock() }
        try await closeDevices()
    }

    /// Flushes and closes the images from the top down, and keeps them locked. The first error is
    /// thrown once all have been closed.
    func closeDevices() async throws(BlockError) {
        var failure: BlockError?
        for node in nodes {
            do throws(BlockError) { try await node.device.close() } catch {
                failure = failure ?? error
            }
        }
        if let failure { throw failure }
    }

    /// Marks the top, which must be closed and still locked, and returns what every image of the
    /// chain looks like now, durably, from the top down: those below the top as they were when they
    /// were opened, since whatever has changed one meanwhile was not us. Blocks.
    func seal() throws(BlockError) -> [ImageFingerprint] {
        if nodes[0].format == .qcow2, !top.isReadOnly {
            _ = try Qcow2WriterMark.set(path: nodes[0].path)
        }
        var fingerprints = nodes.map(\.found)
        if let lock = nodes[0].lock {
            try flushTimes()
            fingerprints[0] = try ImageFingerprint(
                of: lock, dataFile: nodes[0].dataLock, format: nodes[0].format)
        }
        return fingerprints
    }

    /// Lets others have the images.
    func unlock() {
        for node in nodes {
            node.dataLock?.release()
            node.lock?.release()
        }
    }
}
