// What a repository promises, wherever it lives. One conformance suite tests it.
//
// *A point is whole or absent.* Until `PointWriter.commit` publishes the manifest, nothing that
// lists points sees it; from then on it is complete and durable. A crash in between leaves only
// what `sweep` removes.
//
// *Absent is an answer, unreachable is an error.* `contains` says that a point is absent only after
// it has seen the repository itself: a missing mount or a dead server throws. Crash recovery
// depends on the difference.
//
// *Names inside a manifest are not trusted*: an id or a file name is checked before it becomes a
// part of a path.

package import BlockCore

/// A place that holds restore points and explains itself.
package protocol BackupRepository: AnyObject, Sendable {
    /// Where it is, for messages: a directory's path or its like.
    var location: String { get }

    /// What it says about itself.
    var details: RepositoryDescription { get }

    /// All points, oldest id first, so that each follows its parent. Damaged ones are among them.
    func points() async throws(BlockError) -> [PointSummary]

    /// The manifests from the full point that `id` stands on up to `id` itself. A missing point
    /// throws `notFound` and names it; one that is not what its child was made from, `corrupt`.
    func chain(for id: PointID) async throws(BlockError) -> [Manifest]

    /// Whether the point is there, for recovery after a crash. Throws if that cannot be told.
    func contains(_ id: PointID, volumeUUID: String) async throws(BlockError) -> PointPresence

    /// Begins a point. If its data cannot be written, `retry` returns to have that tried again, or
    /// throws; what else fails is thrown at once.
    func beginPoint(
        _ plan: PointPlan, retry: WriteRetry?
    ) async throws(BlockError) -> any PointWriter

    /// The volume as it was at the point, read-only, at its exact length.
    func openPoint(_ id: PointID) async throws(BlockError) -> any BlockDevice

    /// Calls `body` with each piece of the volume at the point in ascending order: what restores
    /// and comparisons go by. `body` runs on a thread that may block.
    func readContent(
        of id: PointID, _ body: @escaping @Sendable (ContentPiece) throws(BlockError) -> Void
    ) async throws(BlockError)

    /// The path of the qcow2 image that an overlay of the point, which is pinned, names as its
    /// backing. It may be longer than the volume by less than 512 bytes.
    func backingPath(of id: PointID) async throws(BlockError) -> String

    /// Opens the content of the point for a restore, which compares it with its digests. With
    /// `isSalvaging` gaps and damage are reported piece by piece; else they throw.
    func openReader(_ id: PointID, isSalvaging: Bool) async throws(BlockError) -> PointReader

    /// The content of the point as `readContent` has it, for a caller that takes it in its own time.
    /// Damage of the tables is found at their end at the latest.
    func openContent(of id: PointID) async throws(BlockError) -> ContentCursor

    /// Checks all that an increment on top of the point would depend on, but for the data: the
    /// manifests, images' headers and digest tables from the full up, and the point's content
    /// digest. Throws the first thing that is wrong; returns the point's manifest.
    func checkChain(of id: PointID) async throws(BlockError) -> Manifest

    /// Takes a point back that has just been published, and whose bitmap nobody has promoted: it is
    /// absent afterwards. Refused if something depends on it already.
    func withdraw(_ manifest: Manifest) async throws(BlockError)

    /// Publishes the manifest of a group whose members have all been committed, durably.
    func commitGroup(_ manifest: GroupManifest) async throws(BlockError)

    /// The groups that are complete, oldest first; a manifest that is damaged counts as none.
    func groups() async throws(BlockError) -> [GroupManifest]

    /// Compares what the point itself stores with its digests, and its files with its manifest.
    /// Damage is in the report; only what keeps the check from being made throws. Each of several
    /// tasks waits for `progress`, which so can hold the check up.
    func verify(
        _ id: PointID, subset: VerifySubset,
        progress: @escaping @Sendable (_ doneBytes: UInt64, _ totalBytes: UInt64) async -> Void
    ) async throws(BlockError) -> VerifyReport

    /// Registers that somebody depends on the pin's point; no error if it is there already.
    func pin(_ pin: PointPin) async throws(BlockError)

    /// Takes the pin with that id away; no error if there is none.
    func unpin(_ id: String, of point: PointID) async throws(BlockError)

    /// All pins. One that cannot be read throws: it must not be taken for none.
    func pins() async throws(BlockError) -> [PointPin]

    /// Removes what crashed writers left, and nothing else; says what it removed.
    @discardableResult
    func sweep() async throws(BlockError) -> [String]

    /// Keeps a copy of an agent's catalog, in place of the last one under that name.
    func putCatalogCopy(_ bytes: [UInt8], named name: String) async throws(BlockError)

    /// The names of the copies of catalogs that it keeps, in order.
    func catalogCopies() async throws(BlockError) -> [String]

    /// The copy of a catalog under that name.
    func catalogCopy(named name: String) async throws(BlockError) -> [UInt8]

    /// The room that is left for new points.
    func freeBytes() async throws(BlockError) -> UInt64
}

/// What is to become of a write that failed.
package typealias WriteRetry = @Sendable (BlockError) async throws(BlockError) -> Void

extension BackupRepository {
    /// Begins a point whose writing is given up at the first failure.
    package func beginPoint(_ plan: PointPlan) async throws(BlockError) -> any PointWriter {
        try await beginPoint(plan, retry: nil)
    }

    /// Verifies all that the point stores.
    package func verify(_ id: PointID) async throws(BlockError) -> VerifyReport {
        try await verify(id, subset: .all) { _, _ in }
    }
}

/// A point on its way into a repository. Any number of tasks may write at once.
///
/// Each byte is written once, as data or as zeroes: a full covers the whole volume, an increment
/// what changed, and `rangeToHold` besides. After an error from a write only `abandon` makes
/// sense. Whoever neither commits nor abandons leaves files for `sweep`.
package protocol PointWriter: PieceSink {
    /// What this writer was made for.
    var plan: PointPlan { get }

    /// What must be written though no bitmap may say so; empty unless the volume's length changed.
    var rangeToHold: ByteRange { get }

    /// The data stored so far.
    var storedBytes: UInt64 { get }

    /// Has the manifest say what the backup meant to the guest; before `commit`.
    func note(_ interference: PointInterference)

    /// Makes the point durable and then visible. `beforeCommit` runs in between: there the caller
    /// flushes the source. On any error the point is withdrawn, but for `busy`: writes are still
    /// in flight.
    func commit(
        beforeCommit: @Sendable () async throws(BlockError) -> Void
    ) async throws(BlockError) -> Manifest

    /// Gives the point up and removes its files. No error if it is closed already.
    func abandon() async
}

/// Where the content of a volume at one instant goes.
package protocol PieceSink: AnyObject, Sendable {
    /// The unit of writes: offsets are multiples of it, lengths too unless they end with the
    /// volume.
    var clusterBytes: UInt64 { get }

    /// Stores `source` as the volume's content at `offset`. Zeroes in it may be found and not stored.
    func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError)

    /// Stores that `range` reads as zeroes.
    func writeZeroes(_ range: ByteRange) async throws(BlockError)
}
