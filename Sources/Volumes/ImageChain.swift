package import BlockCore
import Catalog
import DriverQcow2
import DriverRaw
import Synchronization

/// One opened image of a chain, with the lock under which it was opened.
package struct ImageNode: Sendable {
    package let path: String
    package let format: ImageFormat
    /// Whether its content bypasses the page cache.
    let isDirect: Bool
    package var device: any BlockDevice
    /// nil where there are no locks: on an NBD server.
    let lock: ImageLock?
    /// The lock of the file in which a qcow2 image keeps its data, if it does not do so itself.
    let dataLock: ImageLock?
    /// What the device reads through to, if it is an image over another.
    let backing: DetachableBacking?
    /// How it looked when it had been locked and nothing else had been done, or when a job had ended
    /// to write it.
    var found: ImageFingerprint
    /// Whether a job writes it though it is not the top.
    var isWritten = false

    /// What opens the path, as the catalog names it.
    var driver: String { lock == nil ? "nbd" : "file" }

    /// The image as the catalog has it.
    func record(isOwned: Bool, look: ImageFingerprint? = nil) -> NodeRecord {
        NodeRecord(
            driver: driver, format: format.rawValue, path: path, isOwned: isOwned,
            fingerprint: (look ?? found).text, isDirect: isDirect,
            change: isWritten ? .written : nil)
    }

    /// Changes the length of the image, durably. What is new reads as zeroes.
    func resize(to lengthBytes: UInt64) async throws(BlockError) {
        if let raw = device as? RawDevice {
            try await raw.resize(to: lengthBytes)
        } else if let qcow2 = device as? Qcow2Device {
            try await qcow2.resize(to: lengthBytes)
        } else {
            throw BlockError(
                .unsupported, "resize", on: path,
                detail: "what an NBD server exports is resized there")
        }
    }

    /// Lets others have the image.
    func unlock() {
        dataLock?.release()
        lock?.release()
    }
}

/// A top image and the images behind it, opened and locked.
///
/// The locks are held from before anything was read until `unlock`, or until the last reference
/// goes. Only the top is open for writing, and what a job writes for the time being.
package final class ImageChain: Sendable {
    let opened: Mutex<[ImageNode]>

    /// The device that shows the whole chain.
    package let top: any BlockDevice

    init(nodes: [ImageNode]) {
        precondition(!nodes.isEmpty)
        opened = Mutex(nodes)
        top = nodes[0].device
    }

    /// From the top down; never empty.
    package var nodes: [ImageNode] { opened.withLock { $0 } }

    /// Whether the backing of the only image belongs to somebody else.
    package var standsOnOthers: Bool { nodes[0].backing?.isLent == true }

    /// Has the only image read `device` where it holds nothing, instead of what it was opened over;
    /// returns once nothing uses that any more.
    package func standOn(_ device: any BlockDevice) async {
        guard let slot = nodes[0].backing else { return }
        await slot.attach(device)
    }

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
        // In the file that is open: the path may name another one by now, which is not ours to
        // mark.
        var isMarked: Bool?
        if let image = top as? Qcow2Device, !image.isReadOnly {
            isMarked = try image.markAsLastWriter()
        }
        var fingerprints = nodes.map(\.found)
        if let lock = nodes[0].lock {
            try flushTimes()
            fingerprints[0] = try ImageFingerprint(
                of: lock, dataFile: nodes[0].dataLock, format: nodes[0].format,
                isMarked: isMarked)
        }
        return fingerprints
    }

    /// Changes the length of the top image, durably. What is new reads as zeroes.
    package func resizeTop(to lengthBytes: UInt64) async throws(BlockError) {
        try await nodes[0].resize(to: lengthBytes)
    }

    /// How the top looks now. Blocks.
    func lookAtTop() throws(BlockError) -> ImageFingerprint {
        guard let lock = nodes[0].lock else { return nodes[0].found }
        return try ImageFingerprint(
            of: lock, dataFile: nodes[0].dataLock, format: nodes[0].format)
    }

    /// Lets others have the images.
    func unlock() {
        for node in nodes { node.unlock() }
    }
}

extension Volume {
    /// Its images, from the top down.
    package var imageNodes: [ImageNode] { using { $0.nodes } }

    /// The external data files of its images, by the path of the image.
    package var dataFilePaths: [String: String] {
        using { $0.nodes }
            .reduce(into: [:]) { paths, node in paths[node.path] = node.dataLock?.path }
    }
}
