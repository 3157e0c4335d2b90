package import BlockCore
package import Volumes

// The content of a disk at the instant at which the filter was made, for as long as it is there. What
// is overwritten goes to a fleece first, and from there, behind the writes, to the filter's target: a
// write never waits for that (`PointInTime`). If the old content cannot be kept the point is given up
// and the write goes on: QEMU calls this `break-snapshot`.
//
// Over a node the filter keeps what is written through it. A volume has a write path of its own, in
// which the point is put, and what guests write by the volume's own export is kept too.

/// A filter that keeps what is overwritten below it.
package final class CopyBeforeWrite: BlockFilter {
    package let child: any BlockDevice
    /// The content at the instant of the filter.
    package let point: PointInTime
    private let mover: PointMover
    private let volume: Volume?

    /// Keeps what is written through it over `child` from now on, `ranges` of it.
    package init(
        over child: any BlockDevice, target: any BlockDevice, limits: FleeceLimits,
        keeping ranges: [ByteRange]? = nil
    ) throws(BlockError) {
        self.child = child
        volume = nil
        point = PointInTime(
            source: child, lengthBytes: child.lengthBytes,
            granuleBytes: PointInTime.granuleBytes(forGranularity: child.allocationUnitBytes),
            limits: limits,
            owed: ranges ?? [ByteRange(offset: 0, lengthBytes: child.lengthBytes)])
        mover = try PointMover(point, to: target)
        mover.start()
    }

    /// Keeps what anybody writes to `volume` from an instant on at which nobody does.
    package init(
        over volume: Volume, target: any BlockDevice, limits: FleeceLimits,
        keeping ranges: [ByteRange]? = nil
    ) async throws(BlockError) {
        child = volume
        self.volume = volume
        point = volume.makePoint(limits: limits, keeping: ranges)
        mover = try PointMover(point, to: target)
        mover.start()
        do throws(BlockError) { try await volume.addPoint(point) } catch {
            await mover.stop()
            throw error
        }
    }

    /// The content at the filter's instant as a device.
    package var view: PointView { mover.view }

    package func canZeroFast(_ range: ByteRange, mayUnmap: Bool) -> Bool {
        volume != nil && child.canZeroFast(range, mayUnmap: mayUnmap)
    }

    package func tryWrite(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) -> Bool {
        let range = ByteRange(offset: offset, lengthBytes: UInt64(source.count))
        try checkChange(range, "write")
        guard volume != nil || point.tryKeep(range) else { return false }
        return try child.tryWrite(at: offset, from: source)
    }

    package func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        let range = ByteRange(offset: offset, lengthBytes: UInt64(source.count))
        try await keep(range, "write")
        try await child.write(at: offset, from: source)
    }

    package func writeZeroes(_ range: ByteRange, mayUnmap: Bool) async throws(BlockError) {
        try await keep(range, "write zeroes")
        try await child.writeZeroes(range, mayUnmap: mayUnmap)
    }

    package func discard(_ range: ByteRange) async throws(BlockError) {
        try await keep(range, "discard")
        try await child.discard(range)
    }

    /// Ends the point, and closes the child unless it is a volume.
    package func close() async throws(BlockError) {
        point.giveUp(BlockError(.cancelled, "keep the point", on: nodeName))
        await mover.stop()
        if let volume {
            try await volume.removePoint(point)
        } else {
            try await child.close()
        }
    }

    private func keep(_ range: ByteRange, _ operation: String) async throws(BlockError) {
        try checkChange(range, operation)
        if volume == nil { await point.keep(range) }
    }

    private func checkChange(_ range: ByteRange, _ operation: String) throws(BlockError) {
        try checkInside(range, operation)
        if isReadOnly { throw BlockError(.readOnly, operation, on: nodeName, range: range) }
    }
}
