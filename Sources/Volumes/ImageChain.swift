package import BlockCore

/// One opened image of a chain, with the lock under which it was opened.
package struct ImageNode: Sendable {
    package let path: String
    package let format: ImageFormat
    package let device: any BlockDevice
    let lock: ImageLock
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

    /// Lets others have the images.
    func unlock() {
        for node in nodes { node.lock.release() }
    }
}
