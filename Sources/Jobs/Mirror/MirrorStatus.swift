/// What a mirror is doing at the moment.
package struct MirrorStatus: Sendable, Equatable {
    package var copyMode: CopyMode
    /// What the target lacks, in whole granules.
    package var dueBytes: UInt64
    package var rates: MirrorRates
    /// Whether guests write faster than the job copies.
    package var isOutrun: Bool
    /// Whether every write is in the target before it is acknowledged, and all others are too.
    package var isActivelySynced: Bool
    /// Whether it goes on after a restart of the agent.
    package var isResumed: Bool
}
