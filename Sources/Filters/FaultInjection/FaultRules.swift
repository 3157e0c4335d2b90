// The rules of QEMU's blkdebug, by its names. A rule waits for its event in its state; then it changes
// the state, or arms a fault. Armed faults fail the requests that they are for, until an event arms
// others in their place; one that is for once goes with the first request that it fails.

/// When a rule is looked at.
package enum FaultEvent: String, Sendable, CaseIterable {
    /// When the node is opened.
    case none
    /// Before each read.
    case readAIO = "read_aio"
    /// Before each write.
    case writeAIO = "write_aio"
    /// Before zeroes are written.
    case zeroWrite = "pwritev_zero"
    /// Before each flush, the two one after the other.
    case flushToOS = "flush_to_os"
    case flushToDisk = "flush_to_disk"
}

/// What an armed fault can fail.
package enum FaultOperation: String, Sendable, CaseIterable {
    case read
    case write
    case writeZeroes = "write-zeroes"
    case discard
    case flush
    case blockStatus = "block-status"
}

/// Arms a fault.
package struct InjectedFault: Sendable, Equatable {
    package var event: FaultEvent
    /// The state in which it is armed; nil for any.
    package var state: UInt64?
    package var operations: Set<FaultOperation>
    /// The system's number of the error.
    package var errno: Int32
    /// A request fails if it touches this sector of 512 bytes; nil for any request.
    package var sector: UInt64?
    package var isOnce: Bool

    package init(
        event: FaultEvent, state: UInt64? = nil,
        operations: Set<FaultOperation> = [.read, .write, .writeZeroes, .discard, .flush],
        errno: Int32 = 5, sector: UInt64? = nil, isOnce: Bool = false
    ) {
        self.event = event
        self.state = state
        self.operations = operations
        self.errno = errno
        self.sector = sector
        self.isOnce = isOnce
    }
}

/// Changes the state.
package struct FaultStateChange: Sendable, Equatable {
    package var event: FaultEvent
    /// The state in which it does so; nil for any.
    package var state: UInt64?
    package var newState: UInt64

    package init(event: FaultEvent, state: UInt64? = nil, newState: UInt64) {
        self.event = event
        self.state = state
        self.newState = newState
    }
}

/// What a node that injects faults is to do.
package struct FaultRules: Sendable, Equatable {
    package var faults: [InjectedFault]
    package var stateChanges: [FaultStateChange]

    package init(faults: [InjectedFault] = [], stateChanges: [FaultStateChange] = []) {
        self.faults = faults
        self.stateChanges = stateChanges
    }
}
