import BlockCore
import FuzzDriver
import Glibc
import TestSupport

@testable import NBDServer

// The bytes are what a client sends on a socket, served by a connection from the handshake to the
// end. The first byte says what goes before them: nothing, or a handshake up to the transmission
// phase in one of its forms, so that both phases are reached equally well.

private final class FuzzExport: NBDExport {
    let name = "disk"
    let description = "a disk"
    let device: any BlockDevice = MemoryDevice(
        lengthBytes: 256 << 10, allocationUnitBytes: 4096)
    let isReadOnly = false
    let bitmapNames = ["b0"]

    func dirtyRuns(
        bitmap: String, in range: ByteRange, limit: Int
    ) throws(BlockError) -> [NBDDirtyRun] {
        let half = range.lengthBytes / 2
        guard half > 0, limit > 1 else {
            return [NBDDirtyRun(lengthBytes: range.lengthBytes, isDirty: true)]
        }
        return [
            NBDDirtyRun(lengthBytes: half, isDirty: true),
            NBDDirtyRun(lengthBytes: range.lengthBytes - half, isDirty: false),
        ]
    }

    func connectionOpened() {}
    func connectionClosed() {}
}

private let table: NBDExportTable = {
    let table = NBDExportTable()
    try? table.addExport(FuzzExport())
    return table
}()
private let limits = NBDLimits()
private let places = NBDPlaces(limits)

private func number<T: FixedWidthInteger & BitwiseCopyable>(_ number: T) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.appendBigEndian(number)
    return bytes
}

private func option(_ option: NBDOption, _ payload: [UInt8] = []) -> [UInt8] {
    number(NBDMagic.option) + number(option.rawValue) + number(UInt32(payload.count)) + payload
}

private func handshake(_ form: NBDOption?) -> [UInt8] {
    let name = number(UInt32(4)) + "disk".utf8
    var bytes = number(UInt32(3))
    if let form {
        bytes += option(form)
        var queries = name + number(UInt32(3))
        for query in ["base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b0"] {
            queries += number(UInt32(query.utf8.count)) + query.utf8
        }
        bytes += option(.setMetaContext, queries)
    }
    return bytes + option(.go, name + number(UInt16(0)))
}

private let beginnings: [[UInt8]] = [
    [], number(UInt32(3)), handshake(nil), handshake(.structuredReply),
    handshake(.extendedHeaders),
]

@main enum Fuzzer {
    static func main() { fuzz { serve($0, $1) } }
}

private func serve(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> CInt {
    guard count > 0 else { return 0 }
    var ends: [CInt] = [0, 0]
    guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0 else { return -1 }
    let client = ends[1]
    let input =
        beginnings[Int(bytes[0]) % beginnings.count]
        + UnsafeBufferPointer(start: bytes + 1, count: count - 1)
    // Both directions at once: what is sent may be more than a socket holds.
    HostThread.start(name: "client") {
        _ = input.withUnsafeBytes {
            send(client, $0.baseAddress!, $0.count, Int32(MSG_NOSIGNAL))
        }
        shutdown(client, Int32(SHUT_WR))
    }
    let isOver = Monitor(false)
    HostThread.start(name: "reader") {
        var replies = [UInt8](repeating: 0, count: 64 << 10)
        while recv(client, &replies, replies.count, 0) > 0 {}
        isOver.update { $0 = true }
    }
    let connection = NBDConnection(
        NBDSocket(descriptor: ends[0]), table, limits, places, name: "fuzz", report: { _ in })
    _ = places.enter(connection)
    connection.run()
    isOver.wait { $0 ? () : nil }
    close(client)
    return 0
}
