package import BlockCore
import Synchronization

// Takes what writes have kept of a point to a device, behind the writes: no write waits for that. The
// fleece is its buffer, and bounds how far it may stay behind.
//
// What is moved is whole units of the target, with what of them no write has touched: a part would
// have to be filled up with what is below the target. Old content is forgotten in the fleece after it
// is at the target, so that a view of the point finds it in one of the two.

/// Moves old content of a point to its target.
package final class PointMover: Sendable {
    /// The point's content, wherever it is.
    package let view: PointView
    private let point: PointInTime
    private let target: any BlockDevice
    private let task = Mutex<Task<Void, Never>?>(nil)

    /// How long nothing may have arrived before it is looked again.
    private static let idlePause = Duration.milliseconds(10)

    /// Takes over what `point` keeps from now on.
    package init(_ point: PointInTime, to target: any BlockDevice) throws(BlockError) {
        guard !target.isReadOnly else {
            throw BlockError(.readOnly, "keep old content", on: target.nodeName)
        }
        guard target.lengthBytes >= point.lengthBytes else {
            throw BlockError(
                .invalid, "keep old content", on: target.nodeName,
                detail: "it is shorter than the source: \(target.lengthBytes) and "
                    + "\(point.lengthBytes) bytes")
        }
        self.point = point
        self.target = target
        view = PointView(point, target: target)
        point.noteArrivals()
    }

    /// Moves in the background until `stop`. A failure gives the point up.
    package func start() {
        let task = Task(executorPreference: IOPool.background) { [self] in
            while !Task.isCancelled {
                do throws(BlockError) { _ = try await moveAll() } catch {
                    return point.giveUp(error)
                }
                try? await Task.sleep(for: Self.idlePause)
            }
        }
        self.task.withLock { $0 = task }
    }

    /// Ends that, and waits for what is under way.
    package func stop() async {
        let task = task.withLock { $0 }
        task?.cancel()
        await task?.value
    }

    /// Moves all that there is at the moment; returns how many bytes were written.
    package func moveAll() async throws(BlockError) -> UInt64 {
        var bytes: UInt64 = 0
        while let granule = point.nextArrival() {
            do throws(BlockError) { bytes += try await move(granule) } catch {
                point.arriveAgain(granule)
                throw error
            }
        }
        return bytes
    }

    private func move(_ granule: UInt64) async throws(BlockError) -> UInt64 {
        let unit = max(point.granuleBytes, target.allocationUnitBytes)
        let outer = try point.look(at: granule).range.alignedOutward(to: unit)
        let range = ByteRange(offset: outer.offset, end: min(outer.end, point.lengthBytes))
        var found: [GranuleLook] = []
        for granule in point.granules(of: range) { found.append(try point.look(at: granule)) }
        guard found.contains(where: { $0.kept & ~$0.moved != 0 || $0.isZero }) else { return 0 }
        let content = BufferPool.shared.take(Int(range.lengthBytes)).prefix(Int(range.lengthBytes))
        try await view.read(at: range.offset, into: content)
        if content.readOnlyBytes.isAllZero {
            try await target.writeZeroes(range, mayUnmap: true)
        } else {
            try await target.write(at: range.offset, from: content)
        }
        for look in found { point.forget(look.kept & ~look.moved, of: look) }
        return range.lengthBytes
    }
}
