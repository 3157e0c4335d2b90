// Image and digest table of a point grow together: a piece's records are kept once its data is in
// the image. The commit then goes in this order, each step durable before the next:
//
//     image → digest table → both renamed → source flushed by the caller → manifest
//
// The manifest is what makes the point, so the source must be durable before it: after a power
// loss the bitmap that the point promotes would be clean over data that the source has lost.

package import BlockCore
import DriverQcow2
import Synchronization

/// Writes a point into a directory repository.
package final class DirectoryPointWriter: PointWriter {
    enum Phase {
        case writing
        case failed(BlockError)
        case closed
    }

    struct State {
        var phase = Phase.writing
        var inFlight = 0
        var sorter: RecordSorter
        var interference: PointInterference?
    }

    package let plan: PointPlan
    package var clusterBytes: UInt64 { plan.clusterBytes }
    package var rangeToHold: ByteRange { plan.rangeToHold }
    package var storedBytes: UInt64 { image.storedBytes }

    let store: DirectoryStore
    let files: DirectoryWriterFiles
    let header: DigestTableHeader
    let image: Qcow2Writer
    /// QEMU's lock on the image, until the point exists.
    private let imageLock: ImageLock
    private let pool: IOPool
    private let retry: WriteRetry?
    let state: Mutex<State>

    /// Creates the files of the point; may block.
    init(
        store: DirectoryStore, plan: PointPlan, pool: IOPool, retry: WriteRetry? = nil
    ) throws(BlockError) {
        try plan.check(algorithm: store.details.digestAlgorithm)
        if let parent = plan.parent { try Self.check(parent, in: store) }
        self.plan = plan
        self.store = store
        self.pool = pool
        self.retry = retry
        header = DigestTableHeader(
            algorithm: store.details.digestAlgorithm, gridBytes: plan.gridBytes,
            volumeBytes: plan.lengthBytes)
        let files = try DirectoryWriterFiles(
            folder: try store.folder(for: plan), id: plan.id, files: store.files)
        self.files = files
        do {
            image = try Qcow2Writer(
                file: try store.files.open(files.imageTemporary, .create),
                lengthBytes: plan.lengthBytes, clusterBytes: plan.clusterBytes,
                backing: plan.parent.map { Qcow2Backing(name: $0.image.file, format: "qcow2") },
                compression: plan.compression?.ofImage, pool: pool)
            imageLock = try ImageLock(path: files.imageTemporary, use: .writing)
        } catch {
            files.withdraw()
            throw error
        }
        state = Mutex(
            State(
                sorter: RecordSorter(
                    header: header, directory: files.folder, files: store.files)))
    }

    /// Throws unless `parent` is what the repository has under that id, on a chain without a gap.
    private static func check(
        _ parent: Manifest, in store: DirectoryStore
    ) throws(BlockError) {
        let chain = try store.chain(of: parent.point).manifests
        guard chain.last?.contentDigest == parent.contentDigest else {
            throw BlockError(
                .corrupt, "continue the chain", on: "\(store.root): \(parent.point)",
                detail: "its content is not what it was; take a full backup")
        }
    }

    package func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError) {
        let range = ByteRange(offset: offset, lengthBytes: UInt64(source.count))
        try checkAligned(range, "write")
        guard !range.isEmpty else { return }
        try await track { () async throws(BlockError) in
            let scan = CellScan(
                source.readOnlyBytes, at: offset, header: header, clusterBytes: clusterBytes)
            for run in scan.runs {
                if run.isZero {
                    try image.writeZeroes(run.range)
                } else {
                    let start = Int(run.range.offset - offset)
                    try await image.write(
                        at: run.range.offset,
                        from: source.slice(start, Int(run.range.lengthBytes)), retry: retry)
                }
            }
            return scan
        }
    }

    package func writeZeroes(_ range: ByteRange) async throws(BlockError) {
        try checkAligned(range, "write zeroes")
        guard !range.isEmpty else { return }
        try await track { () async throws(BlockError) in
            // Of a long range this makes many L2 tables, some of which may go to the file.
            try await pool.run { [image] () throws(BlockError) in try image.writeZeroes(range) }
            return CellScan(zeroes: range)
        }
    }

    package func note(_ interference: PointInterference) {
        state.withLock { $0.interference = interference }
    }

    package func commit(
        beforeCommit: @Sendable () async throws(BlockError) -> Void
    ) async throws(BlockError) -> Manifest {
        if let failure = try close() {
            await withdraw()
            throw failure
        }
        do throws(BlockError) {
            try await image.finish()
            var manifest = try await pool.run { [self] () throws(BlockError) in
                let manifest = try describe(extents: try writeTable())
                try files.nameData()
                return manifest
            }
            try await beforeCommit()
            if Task.isCancelled {
                throw BlockError(.cancelled, "commit the point", on: plan.id.text)
            }
            let (sealed, bytes) = try ManifestCodec.encode(manifest)
            manifest = sealed
            try await pool.run { [files] () throws(BlockError) in try files.publish(bytes) }
            imageLock.release()
            return manifest
        } catch {
            await withdraw()
            throw error
        }
    }

    package func abandon() async {
        let isOpen = state.withLock { state in
            if case .closed = state.phase { return false }
            state.phase = .closed
            return true
        }
        if isOpen { await withdraw() }
    }

    private func withdraw() async {
        image.abandon()
        let files = files
        // The body does not throw, which the pool's signature cannot say.
        try? await pool.run { files.withdraw() }
        imageLock.release()
    }

    private func checkAligned(_ range: ByteRange, _ operation: String) throws(BlockError) {
        let (end, overflow) = range.offset.addingReportingOverflow(range.lengthBytes)
        guard !overflow, end <= plan.lengthBytes else {
            throw BlockError(
                .outOfRange, operation, on: plan.id.text, range: range,
                detail: "the volume ends at \(plan.lengthBytes)")
        }
        guard range.offset % clusterBytes == 0,
            end % clusterBytes == 0 || end == plan.lengthBytes
        else {
            throw BlockError(
                .invalid, operation, on: plan.id.text, range: range,
                detail: "whole clusters of \(clusterBytes) bytes are needed")
        }
    }

    /// Runs a write and takes the records of what it stored.
    private func track(
        _ body: () async throws(BlockError) -> CellScan
    ) async throws(BlockError) {
        try state.withLock { (state) throws(BlockError) in
            try checkWriting(state)
            state.inFlight += 1
        }
        do throws(BlockError) {
            let scan = try await body()
            let isFull = state.withLock { state in
                state.sorter.add(scan.records)
                return state.sorter.isFull
            }
            if isFull {
                try await pool.run { [self] () throws(BlockError) in
                    try state.withLock { (state) throws(BlockError) in try state.sorter.spill() }
                }
            }
            state.withLock { $0.inFlight -= 1 }
        } catch {
            state.withLock { state in
                state.inFlight -= 1
                if case .writing = state.phase { state.phase = .failed(error) }
            }
            throw error
        }
    }

    private func checkWriting(_ state: State) throws(BlockError) {
        switch state.phase {
        case .writing: return
        case .failed(let error): throw error
        case .closed:
            throw BlockError(
                .invalid, "write", on: plan.id.text, detail: "the point is closed already")
        }
    }

    /// Ends the writing; the error of an earlier write, if one failed, is returned.
    private func close() throws(BlockError) -> BlockError? {
        try state.withLock { (state) throws(BlockError) -> BlockError? in
            var failure: BlockError?
            if case .failed(let error) = state.phase { failure = error }
            if failure == nil { try checkWriting(state) }
            guard state.inFlight == 0 else {
                throw BlockError(
                    .busy, "commit the point", on: plan.id.text,
                    detail: "\(state.inFlight) writes are in flight")
            }
            state.phase = .closed
            return failure
        }
    }
}
