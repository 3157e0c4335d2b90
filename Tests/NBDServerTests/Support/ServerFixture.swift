import BlockCore
import Foundation
import NBDServer
import Synchronization
import Testing

/// A running server in a folder of its own.
final class ServerFixture: Sendable {
    let folder: String
    let exports = NBDExportTable()
    let server: NBDServer
    private let reported = Reports()

    var socketPath: String { folder + "/nbd.sock" }
    var reports: [String] { reported.texts.withLock { $0 } }

    /// Starts a server, runs `body` with it, stops it and removes its folder.
    static func run(
        _ exports: [DeviceExport], limits: NBDLimits = NBDLimits(),
        _ body: (ServerFixture) async throws -> Void
    ) async throws {
        let fixture = try ServerFixture(exports, limits)
        let result: Result<Void, any Error>
        do {
            result = .success(try await body(fixture))
        } catch {
            result = .failure(error)
        }
        for export in exports { (export.device as? MemoryDevice)?.release() }
        await fixture.server.stop()
        try FileManager.default.removeItem(atPath: fixture.folder)
        try result.get()
        #expect(exports.allSatisfy { $0.openedCount == $0.closedCount })
    }

    private init(_ exports: [DeviceExport], _ limits: NBDLimits) throws {
        folder = NSTemporaryDirectory() + "tidemark-nbd-\(UUID().uuidString.prefix(8))"
        try FileManager.default.createDirectory(
            atPath: folder, withIntermediateDirectories: true)
        let reported = self.reported
        server = NBDServer(
            socketPath: "\(folder)/nbd.sock", exports: self.exports, limits: limits,
            report: { text in reported.texts.withLock { $0.append(text) } })
        for export in exports { try self.exports.addExport(export) }
        try server.start()
    }
}

/// What a server reported.
private final class Reports: Sendable {
    let texts = Mutex<[String]>([])
}
