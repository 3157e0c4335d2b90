package import BlockCore
import DriverQcow2

/// An image that takes whole clusters in compressed form.
package protocol ClusterCompressing: BlockDevice {
    func writeCompressed(at offset: UInt64, from source: BufferSlice) async throws(BlockError)
}

extension Qcow2Device: ClusterCompressing {}
