import Foundation

/// A new folder under TMPDIR (or /tmp) that is removed, with all in it, with the last reference.
package final class TemporaryDirectory: Sendable {
    package let path: String

    package init() throws {
        let parent = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
        var template = Array("\(parent)/tidemark-test-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else {
            throw Tool.Failure(
                description:
                    "cannot make a folder in \(parent): \(String(cString: strerror(errno)))"
            )
        }
        path = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    /// The path of `name` in the folder.
    package func path(_ name: String) -> String { "\(path)/\(name)" }
}
