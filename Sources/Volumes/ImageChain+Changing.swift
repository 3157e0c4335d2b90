import BlockCore
import DriverNBD
import DriverQcow2
import DriverRaw
import Synchronization

// How an image below the top comes to be open for writing, and how images leave the list; the order
// around it is that of `Volume+Chain`. One at a time: whoever does it has claimed the chain.

extension ImageChain {
    /// Lets the image at `path`, below the top, be written.
    func beginWriting(_ path: String) async throws(BlockError) {
        let nodes = nodes
        guard let position = nodes.firstIndex(where: { $0.path == path }), position > 0,
            let slot = nodes[position - 1].backing
        else { throw Volume.noImage(path, of: top.nodeName) }
        let node = nodes[position]
        let device = try await IOPool.guest.run { () throws(BlockError) in
            try node.openForWriting()
        }
        await slot.attach(device)
        try? await node.device.close()
        update(path) { node in
            node.device = device
            node.isWritten = true
        }
    }

    /// Lets it be read only, as it is now.
    func endWriting(_ path: String) async throws(BlockError) {
        guard let node = nodes.first(where: { $0.path == path }) else {
            throw Volume.noImage(path, of: top.nodeName)
        }
        if let image = node.device as? Qcow2Device {
            try await image.settle()
        } else {
            try await node.device.flush()
        }
        let look = try await IOPool.guest.run { () throws(BlockError) in
            guard let lock = node.lock else { return node.found }
            try node.dataLock?.flush()
            try lock.flush()
            let look = try ImageFingerprint(
                of: lock, dataFile: node.dataLock, format: node.format)
            node.dataLock?.stopWriting()
            lock.stopWriting()
            return look
        }
        update(path) { node in
            node.found = look
            node.isWritten = false
        }
    }

    /// Has the image `upper` read through to the one below those at `paths`, if there is one, and
    /// closes them.
    func drop(_ paths: [String], below upper: String) async {
        let nodes = nodes
        guard let position = nodes.firstIndex(where: { $0.path == upper }),
            let slot = nodes[position].backing
        else { return }
        let rest = nodes[(position + 1)...].drop { paths.contains($0.path) }
        if let lower = rest.first {
            await slot.attach(lower.device)
        } else {
            await slot.detach()
        }
        opened.withLock { $0.removeAll { paths.contains($0.path) } }
        for node in nodes where paths.contains(node.path) {
            // They were open for reading: there is nothing to lose.
            try? await node.device.close()
            node.unlock()
        }
    }

    private func update(_ path: String, _ change: (inout ImageNode) -> Void) {
        opened.withLock { nodes in
            for index in nodes.indices where nodes[index].path == path { change(&nodes[index]) }
        }
    }
}

extension ImageNode {
    /// A device that can write, over the same backing as the present one. Blocks.
    fileprivate func openForWriting() throws(BlockError) -> any BlockDevice {
        guard let lock else { return try NBDDevice.open(uri: path, readOnly: false) }
        try lock.startWriting()
        do throws(BlockError) {
            try dataLock?.startWriting()
            guard lock.isInPlace else {
                throw BlockError(.busy, "open", on: path, detail: "it was replaced by another file")
            }
            guard format == .qcow2 else {
                return try RawDevice.open(
                    path: path, readOnly: false, bypassingPageCache: isDirect, pool: .guest)
            }
            try Qcow2Check.repairIfDirty(path: path)
            return try Qcow2Device.open(
                path: path, readOnly: false, backing: backing, pool: .guest)
        } catch {
            dataLock?.stopWriting()
            lock.stopWriting()
            throw error
        }
    }
}
