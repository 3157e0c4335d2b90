import BlockCore
import DriverQcow2
import FuzzDriver
import Glibc

// The bytes are an image file: it is opened read-only, mapped, and read from end to end as far as
// a bound allows. Whatever they are, the answer is data or an error.

private let pool = IOPool(name: "fuzz", threadCount: 1)
private let file: CInt = {
    // In memory, and without a name that a killed run would leave.
    var template = Array("/dev/shm/tidemark-fuzz-XXXXXX".utf8CString)
    let file = mkstemp(&template)
    unlink(template)
    return file
}()
private let path = "/proc/self/fd/\(file)"
private let readBytesMax: UInt64 = 8 << 20
private let pieceBytes: UInt64 = 256 << 10

@main enum Fuzzer {
    static func main() { fuzz { serve($0, $1) } }
}

private func serve(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> CInt {
    guard ftruncate(file, 0) == 0, pwrite(file, bytes, count, 0) == count else { return -1 }
    guard let device = try? Qcow2Device.open(path: path, readOnly: true, backing: nil, pool: pool)
    else { return 0 }
    let isOver = Monitor(false)
    Task(executorPreference: pool) {
        await walk(device)
        isOver.update { $0 = true }
    }
    isOver.wait { $0 ? () : nil }
    return 0
}

private func walk(_ device: Qcow2Device) async {
    let length = device.lengthBytes
    let buffer = BufferPool.shared.take(Int(pieceBytes))
    _ = try? await device.extents(in: ByteRange(offset: 0, lengthBytes: length), limit: 64)
    // The beginning, and as much of the end.
    let starts = [0, length > readBytesMax ? length - readBytesMax / 2 : readBytesMax / 2]
    for start in starts {
        var position = start
        let end = min(length, start + readBytesMax / 2)
        while position < end {
            let slice = buffer.prefix(Int(min(pieceBytes, end - position)))
            let attempt = try? device.tryRead(at: position, into: slice.bytes)
            if attempt != .done { try? await device.read(at: position, into: slice) }
            position += UInt64(slice.count)
        }
    }
    try? await device.close()
}
