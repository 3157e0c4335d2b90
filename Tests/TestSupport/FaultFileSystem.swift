package import BlockCore
import Glibc

/// The host's files, of which operations are counted, fail, wait or take long as they are told to.
///
/// Operations of all kinds are numbered in one sequence, in the order in which they begin.
package final class FaultFileSystem: FileSystem {
    /// What is done to files and names.
    package enum Operation: String, Sendable, CaseIterable {
        case create, open, look, list, read, write, truncate, flush, rename, remove
        case flushDirectory, makeDirectory, lock, freeBytes
    }

    private struct Fault {
        var number: Int
        /// Whether the operation has its effect, and only then fails.
        var hasEffect: Bool
        var isLasting: Bool
        var only: Operation?
        var errno: Int32
    }

    private struct State {
        var count = 0
        var fault: Fault?
        var failed: [Operation] = []
        var paused: Set<Operation> = []
        var heldCount = 0
        var bytesPerSecond: UInt64?
        /// Bytes that files may grow by before they find no more room.
        var roomBytes: UInt64?
    }

    private let host = HostFileSystem()
    private let state = Monitor(State())

    package init() {}

    /// How many operations there were.
    package var count: Int { state.withLock { $0.count } }

    /// What failed as it was told to.
    package var failed: [Operation] { state.withLock { $0.failed } }

    /// Makes the `number`th operation from now fail, the next being 1: of all kinds, or of one. It
    /// has no effect, or with `afterEffect` all of it. With `lasting` all later ones fail too.
    package func fail(
        number: Int, only: Operation? = nil, afterEffect: Bool = false, lasting: Bool = false,
        errno: Int32 = EIO
    ) {
        state.update { state in
            state.count = 0
            state.failed = []
            state.fault = Fault(
                number: number, hasEffect: afterEffect, isLasting: lasting, only: only,
                errno: errno)
        }
    }

    /// Forgets the fault, and lets the held operations go on.
    package func heal() {
        state.update { state in
            state.fault = nil
            state.paused = []
            state.bytesPerSecond = nil
            state.roomBytes = nil
        }
    }

    /// Holds what comes from now on, before it has any effect: its thread hangs.
    package func pause(_ operations: Set<Operation>) {
        state.update { $0.paused = operations }
    }

    /// How many operations have hung so far.
    package var heldCount: Int { state.withLock { $0.heldCount } }

    /// Lets all writes together have so many bytes a second.
    package func throttle(bytesPerSecond: UInt64) {
        state.update { $0.bytesPerSecond = bytesPerSecond }
    }

    /// Lets writes find no more room once they have written so much.
    package func limitRoom(toBytes bytes: UInt64) { state.update { $0.roomBytes = bytes } }

    /// Counts an operation, and holds it or fails it; what has an effect first fails in `body`'s
    /// wake.
    fileprivate func pass<T>(
        _ operation: Operation, on path: String, _ body: () throws(BlockError) -> T
    ) throws(BlockError) -> T {
        let fault = admit(operation)
        if let fault, !fault.hasEffect { throw failure(of: operation, path, fault) }
        let result = try body()
        if let fault { throw failure(of: operation, path, fault) }
        return result
    }

    private func admit(_ operation: Operation) -> Fault? {
        state.update { $0.heldCount += $0.paused.contains(operation) ? 1 : 0 }
        return state.wait { state -> Fault?? in
            if state.paused.contains(operation) { return nil }
            guard let fault = state.fault else { return .some(nil) }
            if let only = fault.only, only != operation { return .some(nil) }
            state.count += 1
            guard state.count == fault.number || fault.isLasting && state.count > fault.number
            else { return .some(nil) }
            state.failed.append(operation)
            return fault
        }
    }

    private func failure(of operation: Operation, _ path: String, _ fault: Fault) -> BlockError {
        var error = BlockError.system(operation.rawValue, on: path, errno: fault.errno)
        error.detail = "injected"
        return error
    }

    /// Takes the time that a write of `bytes` needs, or finds no room for it.
    fileprivate func spend(_ bytes: Int, on path: String) throws(BlockError) {
        let (isFull, rate) = state.update { state in
            guard let room = state.roomBytes else { return (false, state.bytesPerSecond) }
            guard room >= UInt64(bytes) else { return (true, nil as UInt64?) }
            state.roomBytes = room - UInt64(bytes)
            return (false, state.bytesPerSecond)
        }
        if isFull { throw .system("write", on: path, errno: ENOSPC) }
        if let rate { usleep(UInt32(UInt64(bytes) * 1_000_000 / rate)) }
    }

    package func open(
        _ path: String, _ access: HostFile.Access
    ) throws(BlockError) -> any StorageFile {
        try pass(access == .create ? .create : .open, on: path) { () throws(BlockError) in
            FaultFile(try host.open(path, access), of: self)
        }
    }

    package func openTemporary(in directory: String) throws(BlockError) -> any StorageFile {
        try pass(.create, on: directory) { () throws(BlockError) in
            FaultFile(try host.openTemporary(in: directory), of: self)
        }
    }

    package func lock(
        _ path: String, _ access: HostFile.Access
    ) throws(BlockError) -> HostFile {
        try pass(.lock, on: path) { () throws(BlockError) in try host.lock(path, access) }
    }

    package func createDirectory(_ path: String) throws(BlockError) {
        try pass(.makeDirectory, on: path) { () throws(BlockError) in
            try host.createDirectory(path)
        }
    }

    package func names(in directory: String) throws(BlockError) -> [String] {
        try pass(.list, on: directory) { () throws(BlockError) in
            try host.names(in: directory)
        }
    }

    package func exists(_ path: String) throws(BlockError) -> Bool {
        try pass(.look, on: path) { () throws(BlockError) in try host.exists(path) }
    }

    package func rename(_ source: String, to destination: String) throws(BlockError) {
        try pass(.rename, on: source) { () throws(BlockError) in
            try host.rename(source, to: destination)
        }
    }

    package func removeFile(_ path: String) throws(BlockError) {
        try pass(.remove, on: path) { () throws(BlockError) in try host.removeFile(path) }
    }

    package func flush(_ directory: String) throws(BlockError) {
        try pass(.flushDirectory, on: directory) { () throws(BlockError) in
            try host.flush(directory)
        }
    }

    package func freeBytes(at path: String) throws(BlockError) -> UInt64 {
        try pass(.freeBytes, on: path) { () throws(BlockError) in
            let free = try host.freeBytes(at: path)
            return state.withLock { $0.roomBytes } ?? free
        }
    }
}

/// A file of a `FaultFileSystem`.
private final class FaultFile: StorageFile {
    private let base: any StorageFile
    private let system: FaultFileSystem

    init(_ base: any StorageFile, of system: FaultFileSystem) {
        self.base = base
        self.system = system
    }

    var path: String { base.path }
    var isReadOnly: Bool { base.isReadOnly }

    func sizeBytes() throws(BlockError) -> UInt64 { try base.sizeBytes() }

    func read(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) {
        try system.pass(.read, on: path) { () throws(BlockError) in
            try base.read(at: offset, into: destination)
        }
    }

    func readNow(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) throws(BlockError) -> ReadAttempt {
        .refused
    }

    func write(at offset: UInt64, from source: UnsafeRawBufferPointer) throws(BlockError) {
        try system.pass(.write, on: path) { () throws(BlockError) in
            try system.spend(source.count, on: path)
            try base.write(at: offset, from: source)
        }
    }

    func writeDurably(
        at offset: UInt64, from source: UnsafeRawBufferPointer
    ) throws(BlockError) {
        try system.pass(.write, on: path) { () throws(BlockError) in
            try system.spend(source.count, on: path)
            try base.writeDurably(at: offset, from: source)
        }
    }

    func flush() throws(BlockError) {
        try system.pass(.flush, on: path) { () throws(BlockError) in try base.flush() }
    }

    func startWriteback(_ range: ByteRange) { base.startWriteback(range) }

    func truncate(toBytes size: UInt64) throws(BlockError) {
        try system.pass(.truncate, on: path) { () throws(BlockError) in
            try base.truncate(toBytes: size)
        }
    }

    func writeZeroes(_ range: ByteRange, mayUnmap: Bool) throws(BlockError) {
        try system.pass(.write, on: path) { () throws(BlockError) in
            try base.writeZeroes(range, mayUnmap: mayUnmap)
        }
    }

    func deallocate(_ range: ByteRange) throws(BlockError) -> Bool {
        try system.pass(.write, on: path) { () throws(BlockError) in
            try base.deallocate(range)
        }
    }

    func nextData(in range: ByteRange) throws(BlockError) -> ByteRange? {
        try system.pass(.read, on: path) { () throws(BlockError) in
            try base.nextData(in: range)
        }
    }
}
