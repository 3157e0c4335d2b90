import BlockCore
import Synchronization

/// The images that a volume no longer has, and which reads that began before may still use.
package struct RetiredImages: Sendable {
    package let volume: Volume
    private let gone: [ImageNode]

    fileprivate init(volume: Volume, old: ImageChain, new: ImageChain) {
        self.volume = volume
        let kept = new.nodes.map { ObjectIdentifier($0.device) }
        gone = old.nodes.filter { !kept.contains(ObjectIdentifier($0.device)) }
    }

    /// Waits for those reads, and closes the images that are in the new chain no more. Until it
    /// returns the images of the volume are not to be changed again.
    package func close() async {
        await volume.images.drain()
        for node in gone {
            // All that they held is in the new ones, or has been flushed: there is nothing to lose.
            try? await node.device.close()
            node.unlock()
        }
        volume.releaseChain()
    }
}

extension Volume {
    /// Has other images from now on: on the catalog's thread, with the volume held and its chain
    /// claimed.
    func adopt(_ newImages: ImageChain) -> RetiredImages {
        let old = chain
        images.replace(with: newImages)
        // A top that has become a backing is written no more.
        for node in newImages.nodes.dropFirst() where node.device === old.top {
            node.lock?.stopWriting()
            node.dataLock?.stopWriting()
        }
        return RetiredImages(volume: self, old: old, new: newImages)
    }

    /// Keeps others from changing the images until `releaseChain`.
    func claimChain(for use: String) throws(BlockError) {
        let user = chainUser.withLock { user in
            defer { user = user ?? use }
            return user
        }
        guard let user else { return }
        throw BlockError(
            .busy, "change the images", on: name,
            detail: "\(user) is under way: wait for it")
    }

    func releaseChain() { chainUser.withLock { $0 = nil } }

    /// Holds all `volumes`, in the order of their ids so that two groups cannot wait for each other.
    static func hold(
        _ volumes: [Volume], until deadline: ContinuousClock.Instant, to operation: String
    ) async throws(BlockError) -> [(Volume, RangeLock.Hold)] {
        var holds: [(Volume, RangeLock.Hold)] = []
        for volume in volumes.sorted(by: { $0.id < $1.id }) {
            let rest =
                Mutant.freezeWithoutDeadline.isActive
                ? .seconds(3600) : deadline - ContinuousClock.now
            guard let hold = await volume.locks.acquire(allBytes, within: rest) else {
                for (held, hold) in holds { held.locks.release(hold) }
                throw BlockError(
                    .busy, operation, on: volume.name,
                    detail: "writes in flight did not finish before the deadline; try again")
            }
            holds.append((volume, hold))
        }
        return holds
    }
}
