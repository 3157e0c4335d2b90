import Glibc

/// Page-aligned memory for one request, recycled through the pool that made it.
///
/// Ownership: whoever was handed a buffer has it alone until the operation that it was handed to
/// completes; a cancelled operation keeps it until the kernel or the library is done with it. The
/// memory lives as long as a reference to the buffer does.
///
/// `@unchecked Sendable` is true because of that rule: the bytes have one owner at a time, the
/// other fields never change.
package final class AlignedBuffer: @unchecked Sendable {
    /// The memory, `capacityBytes` long. Its content is undefined at first.
    package let base: UnsafeMutableRawPointer
    package let capacityBytes: Int

    private let pool: BufferPool?

    init(base: UnsafeMutableRawPointer, capacityBytes: Int, pool: BufferPool?) {
        self.base = base
        self.capacityBytes = capacityBytes
        self.pool = pool
    }

    deinit {
        if let pool {
            pool.recycle(base, capacityBytes: capacityBytes)
        } else {
            free(base)
        }
    }

    /// All of the memory as a slice.
    package var slice: BufferSlice { BufferSlice(self, offset: 0, count: capacityBytes) }

    /// The first `count` bytes as a slice.
    package func prefix(_ count: Int) -> BufferSlice { BufferSlice(self, offset: 0, count: count) }
}

/// A part of an `AlignedBuffer`, which it keeps alive: the form in which memory is handed to the
/// asynchronous face of a block device.
package struct BufferSlice: Sendable {
    package let buffer: AlignedBuffer
    package let offset: Int
    package let count: Int

    package init(_ buffer: AlignedBuffer, offset: Int, count: Int) {
        precondition(offset >= 0 && count >= 0 && offset + count <= buffer.capacityBytes)
        self.buffer = buffer
        self.offset = offset
        self.count = count
    }

    /// The bytes; valid while the slice or its buffer is referenced.
    package var bytes: UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(start: buffer.base + offset, count: count)
    }

    package var readOnlyBytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(bytes) }

    /// The part of `count` bytes that begins `offset` bytes into this one.
    package func slice(_ offset: Int, _ count: Int) -> BufferSlice {
        precondition(offset >= 0 && count >= 0 && offset + count <= self.count)
        return BufferSlice(buffer, offset: self.offset + offset, count: count)
    }
}
