import BlockCore
import Synchronization
import Volumes

// A mirror in write-blocking mode: what a guest writes is in the target before the guest has its
// answer, so the target cannot fall behind. Whatever goes wrong with it is not the guest's concern:
// the range is due, and the job decides what its policy says. Nor does a guest wait for a target that
// does not answer: after some seconds it waits no more, until source and target are in step again.
//
// Where only whole units of the target may be written, those that a write touches are read from the
// volume, with what other guests are writing there at that moment: they follow in their turn.

/// Copies each write of a volume to a mirror's target before it is acknowledged.
final class MirrorFollower: WriteFollower {
    private let copy: MirrorCopy
    private let failure = Mutex<BlockError?>(nil)
    private let isPatient = Atomic(true)
    /// What guests waited for.
    let followedBytes = Counter()

    init(_ copy: MirrorCopy) { self.copy = copy }

    /// Notes a failure of the target.
    func note(_ error: BlockError) { failure.withLock { $0 = $0 ?? error } }

    /// The first failure since it was last asked for.
    func takeFailure() -> BlockError? {
        failure.withLock { failure in
            defer { failure = nil }
            return failure
        }
    }

    /// Has guests wait again.
    func waitAgain() { isPatient.store(true, ordering: .relaxed) }

    func follow(_ range: ByteRange, _ change: WriteChange) async {
        let unit = copy.target.unitBytes
        let outer = range.alignedOutward(to: unit)
        let whole = ByteRange(offset: outer.offset, end: min(outer.end, copy.volume.lengthBytes))
        guard isPatient.load(ordering: .relaxed) else { return copy.working.mark(whole) }
        let isInTime = await copy.working.follow(whole) { [self] in
            do throws(BlockError) {
                switch change {
                case .written(let content) where whole == range:
                    try await copy.write(range, content)
                case .zeroed(let mayUnmap) where whole == range:
                    try await copy.writeZeroes(range, mayUnmap: mayUnmap)
                default:
                    // Long ones are the job's to copy, as it has pieces and a memory budget.
                    guard whole.lengthBytes <= 4 << 20 else { return false }
                    let content = BufferPool.shared.take(Int(whole.lengthBytes))
                        .prefix(Int(whole.lengthBytes))
                    try await copy.volume.read(at: whole.offset, into: content)
                    try await copy.write(whole, content)
                }
                followedBytes.add(whole.lengthBytes)
                return true
            } catch {
                note(error)
                return false
            }
        }
        if !isInTime { isPatient.store(false, ordering: .relaxed) }
    }
}
