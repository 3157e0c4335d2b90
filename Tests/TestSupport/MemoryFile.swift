package import BlockCore
import Glibc
import Synchronization

/// A file that is an array of bytes.
package final class MemoryFile: StorageFile {
    package let path: String
    package let isReadOnly: Bool
    private let state: Mutex<[UInt8]>

    package init(_ bytes: [UInt8] = [], path: String = "memory", readOnly: Bool = false) {
        self.path = path
        isReadOnly = readOnly
        state = Mutex(bytes)
    }

    /// A copy of the content.
    package var content: [UInt8] { state.withLock { $0 } }

    package func sizeBytes() -> UInt64 { state.withLock { UInt64($0.count) } }

    package func read(at offset: UInt64, into destination: UnsafeMutableRawBufferPointer) {
        guard !destination.isEmpty else { return }
        let address = UInt(bitPattern: destination.baseAddress)
        let count = destination.count
        state.withLock { bytes in
            let target = UnsafeMutableRawBufferPointer(
                start: UnsafeMutableRawPointer(bitPattern: address), count: count)
            let start = Int(min(offset, UInt64(bytes.count)))
            let end = min(start + count, bytes.count)
            target.copyBytes(from: bytes[start..<end])
            memset(target.baseAddress! + (end - start), 0, count - (end - start))
        }
    }

    package func readNow(
        at offset: UInt64, into destination: UnsafeMutableRawBufferPointer
    ) -> ReadAttempt {
        read(at: offset, into: destination)
        return .done
    }

    package func write(at offset: UInt64, from source: UnsafeRawBufferPointer) {
        put(Array(source), at: Int(offset))
    }

    package func writeDurably(at offset: UInt64, from source: UnsafeRawBufferPointer) {
        write(at: offset, from: source)
    }

    package func flush() {}

    package func startWriteback(_ range: ByteRange) {}

    package func truncate(toBytes size: UInt64) {
        state.withLock { bytes in
            let size = Int(size)
            if size < bytes.count {
                bytes.removeLast(bytes.count - size)
            } else {
                bytes += [UInt8](repeating: 0, count: size - bytes.count)
            }
        }
    }

    package func writeZeroes(_ range: ByteRange, mayUnmap: Bool) {
        state.withLock { bytes in
            let start = Int(min(range.offset, UInt64(bytes.count)))
            let end = Int(min(range.end, UInt64(bytes.count)))
            bytes.withUnsafeMutableBytes { bytes in
                guard end > start else { return }
                memset(bytes.baseAddress! + start, 0, end - start)
            }
        }
    }

    package func deallocate(_ range: ByteRange) -> Bool {
        writeZeroes(range, mayUnmap: true)
        return true
    }

    package func nextData(in range: ByteRange) -> ByteRange? {
        let end = min(range.end, sizeBytes())
        return range.offset < end ? ByteRange(offset: range.offset, end: end) : nil
    }

    /// Writes `source` at `offset`, and grows the file if need be.
    package func put(_ source: [UInt8], at offset: Int) {
        guard !source.isEmpty else { return }
        state.withLock { bytes in
            let end = offset + source.count
            if end > bytes.count {
                bytes += [UInt8](repeating: 0, count: end - bytes.count)
            }
            bytes.withUnsafeMutableBytes { bytes in
                UnsafeMutableRawBufferPointer(rebasing: bytes[offset..<end])
                    .copyBytes(from: source)
            }
        }
    }
}
