package import BlockCore

extension Qcow2Device {
    /// Makes the header name `backing` as the backing file, or none, durably, once everything that
    /// was written is durable itself. The device goes on over what it was opened with.
    package func setBacking(_ backing: Qcow2Backing?) async throws(BlockError) {
        guard !isReadOnly else {
            throw BlockError(.readOnly, "name the backing file", on: nodeName)
        }
        try await flush()
        try await tables.withLock { () async throws(BlockError) in
            try await pool.run { [self] () throws(BlockError) in
                try HeaderArea(file: file, header: header).setBacking(backing, by: damage)
            }
        }
        currentBacking.withLock { $0 = backing }
    }

    /// The backing file as the header names it now.
    package var backingName: Qcow2Backing? { currentBacking.withLock { $0 } }
}
