// `fdatasync` is slow and covers the whole file, so those who ask at the same time share one: who
// gets the turn serves everybody who had asked before its system call began.
//
// A failed `fdatasync` is final. The kernel reports lost pages once and calls them clean from then
// on, so a later success would say nothing about them: every flush after a failed one fails alike.

/// The flushes of one file, shared among concurrent callers.
package final class SharedFlush: Sendable {
    private struct State {
        /// How many requests have been made, and up to which of them all are served.
        var requested: UInt64 = 0
        var served: UInt64 = 0
        var failure: BlockError?
    }

    private let file: any StorageFile
    private let pool: IOPool
    private let turn = AsyncLock()
    private let state = HostMutex(State())

    package init(file: any StorageFile, pool: IOPool) {
        self.file = file
        self.pool = pool
    }

    /// Makes everything durable that was written before the call.
    package func flush() async throws(BlockError) {
        let mine = state.withLock { state in
            state.requested += 1
            return state.requested
        }
        try await turn.withLock { () async throws(BlockError) in
            let (served, failure, newest) = state.withLock {
                ($0.served, $0.failure, $0.requested)
            }
            if served >= mine { return }
            if let failure { throw failure }
            do throws(BlockError) {
                try await pool.run { [file] () throws(BlockError) in try file.flush() }
            } catch {
                var final = error
                final.detail = "what was not flushed may be lost; open the image anew"
                state.withLock { [final] in $0.failure = final }
                throw final
            }
            state.withLock { $0.served = newest }
        }
    }
}
