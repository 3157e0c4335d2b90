package import BlockCore
import Foundation

// Whoever depends on a point registers a pin in the repository before opening it, and takes it away
// when it depends on the point no more. A pin holds the point and all that it stands on: whatever
// forgets, prunes or merges points honours it.
//
// A pin is a file beside the point, `POINT.PIN.pin`, where PIN is 16 hexadecimal digits that its
// holder chose and has written down before. So a holder that crashed at any moment can take away
// what it made, as often as it likes, and nothing that it did not make.

/// Proof that somebody depends on a point.
package struct PointPin: Codable, Hashable, Sendable {
    /// 16 hexadecimal digits, chosen by the holder.
    package var id: String
    package var point: PointID
    /// What depends on the point, for people.
    package var holder: String
    /// The host that it is on.
    package var host: String
    package var created: UTCTime

    /// A new pin of `point`, not registered yet.
    package init(of point: PointID, holder: String) {
        let number = UInt64.random(in: 0 ... .max)
        let digits = String(number, radix: 16)
        id = String(repeating: "0", count: 16 - digits.count) + digits
        self.point = point
        self.holder = holder
        host = ProcessInfo.processInfo.hostName
        created = .now()
    }

    /// The name of its file; nil if the id is none.
    static func fileName(_ id: String, _ point: PointID) -> String? {
        guard id.utf8.count == 16, id.utf8.allSatisfy(Hexadecimal.isDigit) else { return nil }
        return "\(point).\(id).pin"
    }

    /// Whether `name` is the file of a pin.
    static func isFileName(_ name: String) -> Bool {
        let parts = name.split(separator: ".", omittingEmptySubsequences: false).map(String.init)
        guard parts.count == 4, parts[3] == "pin", let id = PointID(parts[0] + "." + parts[1])
        else { return false }
        return fileName(parts[2], id) == name
    }
}

extension DirectoryRepository {
    private static let pinBytesMax = 64 << 10

    package func pin(_ pin: PointPin) async throws(BlockError) {
        try await blocking { (store) throws(BlockError) in
            guard let folder = try store.folder(of: pin.point) else {
                throw store.missing(pin.point)
            }
            guard let name = PointPin.fileName(pin.id, pin.point) else {
                throw BlockError(.invalid, "pin the point", on: pin.id, detail: "no id of a pin")
            }
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
            guard let bytes = try? encoder.encode(pin) else {
                throw BlockError(.invalid, "pin the point", on: pin.point.text)
            }
            let path = "\(folder)/\(name)"
            guard !HostDirectory.exists(path) else { return }
            // Under its own name at once: a crash leaves nothing but what the holder takes away.
            let file = try HostFile(path: path, access: .create)
            do throws(BlockError) {
                try Array(bytes).withBytes { (bytes) throws(BlockError) in
                    try file.write(at: 0, from: bytes)
                }
                try file.flush()
                try HostDirectory.flush(folder)
            } catch {
                try? HostDirectory.removeFile(path)
                throw error
            }
        }
    }

    package func unpin(_ id: String, of point: PointID) async throws(BlockError) {
        try await blocking { (store) throws(BlockError) in
            guard let name = PointPin.fileName(id, point) else { return }
            for folder in try store.folders()
            where HostDirectory.exists("\(folder)/\(name)") {
                try HostDirectory.removeFile("\(folder)/\(name)")
                try HostDirectory.flush(folder)
            }
        }
    }

    package func pins() async throws(BlockError) -> [PointPin] {
        try await blocking { (store) throws(BlockError) in
            var pins: [PointPin] = []
            for folder in try store.folders() {
                for name in try store.names(in: folder) where PointPin.isFileName(name) {
                    let path = "\(folder)/\(name)"
                    let bytes = try HostDirectory.readFile(path, limitBytes: Self.pinBytesMax)
                    guard let pin = try? JSONDecoder().decode(PointPin.self, from: Data(bytes))
                    else {
                        throw BlockError(
                            .corrupt, "read the pin", on: path,
                            detail: "it is damaged: find out who holds it before removing it")
                    }
                    pins.append(pin)
                }
            }
            return pins
        }
    }
}
