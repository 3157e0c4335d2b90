import BlockCore
import Synchronization

/// What all fleeces of an agent together may hold: in memory, which counts against the agent's
/// (`MemoryBudget`), and in spill files.
package final class FleeceBudget: Sendable {
    package let memoryBytes: UInt64
    package let spillBytes: UInt64

    private struct Used {
        var memoryBytes: UInt64 = 0
        var spillBytes: UInt64 = 0
    }

    private let used = Mutex(Used())

    package init(memoryBytes: UInt64 = 256 << 20, spillBytes: UInt64 = 64 << 30) {
        self.memoryBytes = memoryBytes
        self.spillBytes = spillBytes
    }

    /// What is held in memory at the moment.
    package var usedMemoryBytes: UInt64 { used.withLock { $0.memoryBytes } }

    /// What spill files have room for at the moment.
    package var usedSpillBytes: UInt64 { used.withLock { $0.spillBytes } }

    /// Takes `bytes` of the memory; false, with nothing taken, if there are not that many left.
    func takeMemory(_ bytes: UInt64) -> Bool {
        used.withLock { used in
            guard used.memoryBytes + bytes <= memoryBytes,
                MemoryBudget.shared.tryTake(bytes, for: .fleeces)
            else { return false }
            used.memoryBytes += bytes
            return true
        }
    }

    /// Takes `bytes` of the spill files' room; false, with nothing taken, if there is too little.
    func takeSpill(_ bytes: UInt64) -> Bool {
        used.withLock { used in
            guard used.spillBytes + bytes <= spillBytes else { return false }
            used.spillBytes += bytes
            return true
        }
    }

    /// Gives back what was taken.
    func give(memoryBytes: UInt64 = 0, spillBytes: UInt64 = 0) {
        MemoryBudget.shared.give(memoryBytes, for: .fleeces)
        used.withLock { used in
            used.memoryBytes -= memoryBytes
            used.spillBytes -= spillBytes
        }
    }
}
