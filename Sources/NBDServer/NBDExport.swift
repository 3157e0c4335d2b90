package import BlockCore

/// A run of a dirty bitmap.
package struct NBDDirtyRun: Hashable, Sendable {
    package var lengthBytes: UInt64
    package var isDirty: Bool

    package init(lengthBytes: UInt64, isDirty: Bool) {
        self.lengthBytes = lengthBytes
        self.isDirty = isDirty
    }
}

/// A disk that clients can connect to by name.
package protocol NBDExport: AnyObject, Sendable {
    /// The name that clients ask for; at most 4096 bytes.
    var name: String { get }

    /// A text for people, shown in lists; may be empty.
    var description: String { get }

    /// What reads and writes go to. Its length is told to a client once, when it connects.
    var device: any BlockDevice { get }

    /// Whether clients may only read, even if the device could be written.
    var isReadOnly: Bool { get }

    /// The dirty bitmaps offered as `qemu:dirty-bitmap:NAME`.
    var bitmapNames: [String] { get }

    /// The runs of `range` from its start, adjacent runs differing: at least one, at most `limit`.
    /// They may end before `range` does.
    func dirtyRuns(
        bitmap: String, in range: ByteRange, limit: Int
    ) throws(BlockError) -> [NBDDirtyRun]

    /// A client chose this export; from now on the device is in use.
    func connectionOpened()

    /// The client is gone and every request of it has completed.
    func connectionClosed()

    /// The device failed a client's request, and the client is told so. Must not wait.
    func requestFailed(_ failure: NBDRequestFailure)

    /// So many requests of a client were answered at once. Must not wait.
    func requestsAnswered(_ count: Int)

    /// A client's request cannot be answered at once; `requestEnded` follows. Must not wait.
    func requestWaits()

    /// It has its answer, after so long.
    func requestEnded(after duration: Duration)
}

extension NBDExport {
    package func requestFailed(_ failure: NBDRequestFailure) {}
    package func requestsAnswered(_ count: Int) {}
    package func requestWaits() {}
    package func requestEnded(after duration: Duration) {}
}

/// What became of a request that the device failed.
package struct NBDRequestFailure: Sendable {
    /// Whether it was to change the disk.
    package var isWrite: Bool
    /// Whether the reason is that there is no room for the change.
    package var isNoSpace: Bool
    package var reason: String
}
