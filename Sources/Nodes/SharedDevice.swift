package import BlockCore
import Filters

/// A device that stays another owner's: a close of it flushes only.
package final class SharedDevice: BlockFilter {
    package let child: any BlockDevice

    package init(_ child: any BlockDevice) { self.child = child }

    package func close() async throws(BlockError) {
        if !child.isReadOnly { try await child.flush() }
    }
}
