/// What has to happen before a commit can be lost.
package enum Durability: String, CaseIterable, Sendable {
    /// The medium breaks its promises: a commit that returned survives a power loss.
    case power
    /// The host goes down: a commit that returned survives the end of the process, by `kill -9` too.
    /// One that did not yet reach the medium, nor was followed by one of `power`, can be lost with
    /// the host; none is ever lost without all that came after it.
    case process
}
