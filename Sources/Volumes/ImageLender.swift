/// Whose images a mirror writes.
package struct ImageLender: Sendable {
    /// The mirror needs them no more.
    var giveBack: @Sendable () async -> Void
    /// They are a volume's from now on. Called with that volume held: must not wait.
    var lose: @Sendable () -> Void

    package init(
        giveBack: @escaping @Sendable () async -> Void, lose: @escaping @Sendable () -> Void
    ) {
        self.giveBack = giveBack
        self.lose = lose
    }
}

extension ImageChain {
    /// The place below the only image of the chain, where something can be put for a time.
    var openSlot: DetachableBacking? {
        guard nodes.count == 1, let slot = nodes[0].backing, !slot.isLent else { return nil }
        return slot
    }
}
