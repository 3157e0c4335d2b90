package import BlockCore

extension Qcow2Device {
    /// Makes the header name no backing file, durably, once everything that was written is durable
    /// itself. What the image does not hold reads as zeroes when it is opened again; until it is
    /// closed it shows the backing device that it was opened with.
    package func forgetBacking() async throws(BlockError) {
        guard !isReadOnly else { throw BlockError(.readOnly, "detach", on: nodeName) }
        try await flush()
        try await tables.withLock { () async throws(BlockError) in
            try await pool.run { [damage] () throws(BlockError) in
                // Offset and length of the name lie side by side: one write within a sector.
                try damage.replace(
                    at: UInt64(Qcow2Layout.Field.backingOffset),
                    with: [UInt8](repeating: 0, count: 12))
            }
        }
    }
}
