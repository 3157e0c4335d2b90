package import BlockCore

/// What a change did to a range of a volume.
package enum WriteChange: Sendable {
    case written(BufferSlice)
    case zeroed(mayUnmap: Bool)
    /// A discard, or a change that failed: only reading tells.
    case unknown
}

/// Somebody who is told of every change before it is acknowledged, with its range held: the writer
/// waits for him.
package protocol WriteFollower: AnyObject, Sendable {
    /// A change was made, and marked. What goes wrong here is not the writer's concern.
    func follow(_ range: ByteRange, _ change: WriteChange) async
}
