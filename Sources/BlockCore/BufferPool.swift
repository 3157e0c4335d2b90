import Glibc

/// Recycles page-aligned memory by size class.
///
/// A fresh large allocation per request means `mmap`, page faults and `munmap` each time, which
/// costs more than the copy that it is for. What the pool keeps idle is bounded.
package final class BufferPool: Sendable {
    /// The pool that everything in the process uses unless it has a reason not to.
    package static let shared = BufferPool(idleBytesMax: 64 << 20)

    private struct Idle {
        var classes: [[UInt]] = Array(repeating: [], count: sizeClasses.count)
        var bytes = 0
    }

    private static let sizeClasses = [4 << 10, 64 << 10, 256 << 10, 1 << 20, 2 << 20, 4 << 20]
    private static let alignmentBytes = 4096

    private let idle = HostMutex(Idle())
    private let idleBytesMax: Int

    package init(idleBytesMax: Int) {
        self.idleBytesMax = idleBytesMax
    }

    /// A buffer of at least `lengthBytes`, which must be positive. Its content is undefined.
    package func take(_ lengthBytes: Int) -> AlignedBuffer {
        precondition(lengthBytes > 0)
        guard let index = Self.sizeClasses.firstIndex(where: { $0 >= lengthBytes }) else {
            let capacity = Int(UInt64(lengthBytes).alignedUp(to: UInt64(Self.alignmentBytes)))
            return AlignedBuffer(base: Self.allocate(capacity), capacityBytes: capacity, pool: nil)
        }
        let capacity = Self.sizeClasses[index]
        let address: UInt? = idle.withLock { idle in
            guard let address = idle.classes[index].popLast() else { return nil }
            idle.bytes -= capacity
            return address
        }
        let base = address.flatMap { UnsafeMutableRawPointer(bitPattern: $0) }
        return AlignedBuffer(
            base: base ?? Self.allocate(capacity), capacityBytes: capacity, pool: self)
    }

    func recycle(_ base: UnsafeMutableRawPointer, capacityBytes: Int) {
        let kept = idle.withLock { idle in
            guard idle.bytes + capacityBytes <= idleBytesMax,
                let index = Self.sizeClasses.firstIndex(of: capacityBytes)
            else { return false }
            idle.classes[index].append(UInt(bitPattern: base))
            idle.bytes += capacityBytes
            return true
        }
        if !kept { free(base) }
    }

    private static func allocate(_ capacityBytes: Int) -> UnsafeMutableRawPointer {
        var pointer: UnsafeMutableRawPointer?
        let status = posix_memalign(&pointer, alignmentBytes, capacityBytes)
        guard status == 0, let pointer else {
            fatalError("cannot allocate \(capacityBytes) bytes: out of memory")
        }
        return pointer
    }
}
