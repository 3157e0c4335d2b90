import Foundation
import TestSupport
import Testing

/// What `qemu-img check` says of an image.
///
/// There is damage over which it goes on for ever, so it gets 20 s; then `status` is none that it
/// has itself.
struct QemuCheck {
    let status: Int32
    let errors: String
    private let members: [String: Any]

    init(_ path: String, format: String = "qcow2") throws {
        let result = try Tool.run([
            "timeout", "--signal=KILL", "20",
            "qemu-img", "check", "-f", format, "--output=json", path,
        ])
        status = result.status
        errors = result.errors
        let document = try? JSONSerialization.jsonObject(with: Data(result.output.utf8))
        members = document as? [String: Any] ?? [:]
    }

    /// A number of the document; 0 where it leaves it out.
    subscript(key: String) -> UInt64 { (members[key] as? NSNumber)?.uint64Value ?? 0 }

    /// Whether it says that the image leaks, and nothing worse.
    static func leaks(_ path: String) -> Bool { (try? QemuCheck(path).status) == 3 }
}
