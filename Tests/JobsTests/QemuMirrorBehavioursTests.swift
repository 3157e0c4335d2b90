import Foundation
import Testing

/// `QemuMirrorBehaviours.md` lists what QEMU's tests check; what it names must exist.
@Suite struct QemuMirrorBehavioursTests {
    private static let folder = URL(fileURLWithPath: #filePath)
        .resolvingSymlinksInPath().deletingLastPathComponent()

    private static let numbers: Set<String> = [
        "041", "055", "056", "124", "151", "155", "165", "236", "246", "257", "384",
    ]

    private static let reasons: Set<String> = [
        "quorum", "CD-ROM", "QEMU's permission model", "iothreads", "QEMU's command line",
    ]

    @Test func everyBehaviourHasATestThatExistsOrAReason() throws {
        let text = try String(
            contentsOf: Self.folder.appendingPathComponent("QemuMirrorBehaviours.md"),
            encoding: .utf8)
        let rows = text.split(separator: "\n").map(String.init).compactMap { line in
            line.wholeMatch(of: /\| (\d{3}) \| (.+) \| (.+) \|/)?.output
        }
        #expect(Set(rows.map { String($0.1) }) == Self.numbers)
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
