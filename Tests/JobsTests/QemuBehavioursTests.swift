import Foundation
import Testing

/// `QemuBehaviours.md` lists what QEMU's tests of jobs check; what it names must exist.
@Suite struct QemuBehavioursTests {
    private static let folder = URL(fileURLWithPath: #filePath)
        .resolvingSymlinksInPath().deletingLastPathComponent()

    private static let reasons: Set<String> = [
        "quorum", "CD-ROM", "QEMU's permission model", "iothreads", "command line",
    ]

    @Test func everyBehaviourHasATestThatExistsOrAReason() throws {
        let text = try String(
            contentsOf: Self.folder.appendingPathComponent("QemuBehaviours.md"), encoding: .utf8)
        let rows = text.split(separator: "\n").map(String.init).compactMap { line in
            line.wholeMatch(of: /\| (\w+(?:, \w+)*) \| (.+) \| (.+) \|/)?.output
        }.filter { $0.1 != "case" }
        let sections = text.matches(of: #/\n## (\d{3}) /#).map { String($0.output.1) }
        #expect(Set(["030", "040"]).isSubset(of: sections))
        #expect(rows.count >= 49)
        let names = try testNames()
        for row in rows {
            let covered = String(row.3)
            if Self.reasons.contains(covered) { continue }
            let tests = covered.matches(of: /`(\w+)`/).map { String($0.output.1) }
            #expect(!tests.isEmpty, "\(row.1): '\(covered)' is neither a test nor a known reason")
            for test in tests {
                #expect(names.contains(test) as Bool, "\(row.1): there is no \(test)")
            }
        }
    }

    /// The names of all functions in the tests.
    private func testNames() throws -> Set<String> {
        var names: Set<String> = []
        let files = FileManager.default.enumerator(
            at: Self.folder.deletingLastPathComponent(), includingPropertiesForKeys: nil)
        for case let file as URL in try #require(files) where file.pathExtension == "swift" {
            let source = try String(contentsOf: file, encoding: .utf8)
            names.formUnion(source.matches(of: /func (\w+)\(/).map { String($0.output.1) })
        }
        return names
    }
}
