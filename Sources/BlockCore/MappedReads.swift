import CLinux
import Glibc
import Synchronization

// Small reads of what the page cache holds, without a system call.
//
// Asking the kernel to copy 4 KiB out of its page cache costs more than the copy. Where a file is
// read often and is all in the page cache, it is mapped, and the bytes are copied from there. The
// mapping shows the page cache itself, so such a read sees every earlier write, however it was made.
//
//   counting   reads of a region of 1 MiB are counted in ticks of a quarter of a second
//   asking     after `readsMin` in a tick, the kernel is asked whether all of the region is in the
//              page cache; the answer holds for the rest of the tick
//   copying    until then reads are copied from the mapping
//
// What was evicted after the question makes a read wait for the medium: rare, and no longer than
// the read itself. What lies beyond the end of a file that was cut, and what the medium cannot read,
// raises SIGBUS in the copy, which then fails (`clinux_copy_mapped`); the caller goes the usual way
// and learns why. Only regular files on file systems of this host are mapped: on others the page
// cache may be behind the file.

/// The mapping of one file, and how often its parts are read.
///
/// `@unchecked Sendable` is true because all that changes after `init` is atomic or changes under
/// the lock, and the mappings live as long as the object.
final class MappedReads: @unchecked Sendable {
    /// Reads up to this size are copied.
    static let lengthBytesMax = 64 << 10
    /// How many reads of a region in a tick make it worth asking; tests lower it.
    static let readsMin = Atomic<UInt32>(64)

    private typealias Slot = Atomic<UnsafeMutablePointer<Window>?>

    private static let windowBits: UInt64 = 30
    private static let windowCountMax = 1024
    private static let regionBits: UInt64 = 20
    private static let regionCount = 1 << Int(windowBits - regionBits)
    private static let pageBytes: UInt64 = 4096

    /// 1 GiB of the file.
    private struct Window: ~Copyable {
        let base = Atomic<UInt>(0)
        let regions: UnsafeMutablePointer<Atomic<UInt32>>

        init() {
            regions = .allocate(capacity: MappedReads.regionCount)
            for index in 0..<MappedReads.regionCount {
                (regions + index).initialize(to: Atomic(0))
            }
        }

        deinit {
            let base = base.load(ordering: .relaxed)
            if base != 0 {
                munmap(UnsafeMutableRawPointer(bitPattern: base), 1 << Int(MappedReads.windowBits))
            }
            regions.deallocate()
        }
    }

    private let slots: UnsafeMutablePointer<Slot>
    private let mapping = HostMutex(())
    private let isPossible = Atomic(true)

    init() {
        slots = .allocate(capacity: Self.windowCountMax)
        for index in 0..<Self.windowCountMax { (slots + index).initialize(to: Slot(nil)) }
    }

    deinit {
        for index in 0..<Self.windowCountMax {
            guard let window = slots[index].load(ordering: .relaxed) else { continue }
            window.deinitialize(count: 1)
            window.deallocate()
        }
        slots.deallocate()
    }

    /// Fills `destination` from `offset` of the file that `descriptor` has open, if that is likely
    /// to be a copy and nothing more. False if nothing was tried, or if it failed.
    func copy(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer, from descriptor: Int32
    ) -> Bool {
        let count = destination.count
        guard count > 0, count <= Self.lengthBytesMax, isPossible.load(ordering: .relaxed),
            offset >> Self.regionBits == (offset + UInt64(count) - 1) >> Self.regionBits,
            offset >> Self.windowBits < UInt64(Self.windowCountMax)
        else { return false }
        let window = window(Int(offset >> Self.windowBits))
        let inWindow = offset & (1 << Self.windowBits - 1)
        let region = Int(inWindow >> Self.regionBits)
        guard isResident(window, region, offset, descriptor) else { return false }
        let base = UnsafeRawPointer(bitPattern: window.pointee.base.load(ordering: .relaxed))!
        let isCopied = clinux_copy_mapped(destination.baseAddress, base + Int(inWindow), count)
        // Cut off, mostly: not to be tried again soon.
        if !isCopied {
            window.pointee.regions[region].store(
                RegionState(tick: Self.tick(), answer: .absent).word, ordering: .relaxed)
        }
        return isCopied
    }

    /// What is known of a region, in one word: the tick, the answer, and the reads in the tick.
    private struct RegionState {
        enum Answer: UInt32 { case none, absent, resident }

        static let readsMax: UInt32 = 1 << 14 - 1
        var word: UInt32

        init(word: UInt32) { self.word = word }

        init(tick: UInt32, answer: Answer, reads: UInt32 = 0) {
            word = tick << 16 | answer.rawValue << 14 | reads
        }

        var tick: UInt32 { word >> 16 }
        var answer: Answer { Answer(rawValue: word >> 14 & 3) ?? .none }
        var reads: UInt32 { word & Self.readsMax }
    }

    // Threads that count at the same time may lose a count, which does no harm.
    private func isResident(
        _ window: UnsafeMutablePointer<Window>, _ region: Int, _ offset: UInt64,
        _ descriptor: Int32
    ) -> Bool {
        let known = RegionState(word: window.pointee.regions[region].load(ordering: .relaxed))
        let tick = Self.tick()
        let readsMin = Self.readsMin.load(ordering: .relaxed)
        var state = known
        if known.tick != tick {
            // As busy in the tick before: asked at once.
            let isBusy = known.tick == (tick &- 1) & 0xFFFF && known.reads >= readsMin
            state = RegionState(tick: tick, answer: .none, reads: isBusy ? readsMin : 0)
        }
        if state.reads < RegionState.readsMax { state.word += 1 }
        if state.answer == .none, state.reads >= readsMin {
            let isResident = map(window, offset, descriptor) && ask(window, region)
            state = RegionState(
                tick: tick, answer: isResident ? .resident : .absent, reads: state.reads)
        }
        window.pointee.regions[region].store(state.word, ordering: .relaxed)
        return state.answer == .resident
    }

    private func ask(_ window: UnsafeMutablePointer<Window>, _ region: Int) -> Bool {
        let base = UnsafeMutableRawPointer(
            bitPattern: window.pointee.base.load(ordering: .relaxed))!
        let lengthBytes = 1 << Int(Self.regionBits)
        return clinux_is_resident(base + region * lengthBytes, lengthBytes)
    }

    private func window(_ index: Int) -> UnsafeMutablePointer<Window> {
        if let window = slots[index].load(ordering: .acquiring) { return window }
        let fresh = UnsafeMutablePointer<Window>.allocate(capacity: 1)
        fresh.initialize(to: Window())
        let (isFirst, other) = slots[index].compareExchange(
            expected: nil, desired: fresh, ordering: .acquiringAndReleasing)
        if isFirst { return fresh }
        fresh.deinitialize(count: 1)
        fresh.deallocate()
        // The exchange failed because there is a window.
        return other!
    }

    // Maps the window that holds `offset`, once. A file that cannot be mapped is not tried again.
    private func map(
        _ window: UnsafeMutablePointer<Window>, _ offset: UInt64, _ descriptor: Int32
    ) -> Bool {
        if window.pointee.base.load(ordering: .relaxed) != 0 { return true }
        return mapping.withLock { _ in
            if window.pointee.base.load(ordering: .relaxed) != 0 { return true }
            let start = offset & ~(1 << Self.windowBits - 1)
            guard
                let base = clinux_map_for_reading(
                    descriptor, Int64(start), 1 << Int(Self.windowBits))
            else {
                isPossible.store(false, ordering: .relaxed)
                return false
            }
            window.pointee.base.store(UInt(bitPattern: base), ordering: .relaxed)
            return true
        }
    }

    private static func tick() -> UInt32 {
        var now = timespec()
        clock_gettime(CLOCK_MONOTONIC_COARSE, &now)
        return UInt32(truncatingIfNeeded: (now.tv_sec * 4 + now.tv_nsec / 250_000_000) & 0xFFFF)
    }
}
