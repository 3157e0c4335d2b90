import Foundation
import Testing

/// `Tests/Traps.md` lists what others fell into; what it names must exist.
@Suite struct TrapTests {
    private static let tests = URL(fileURLWithPath: #filePath)
        .resolvingSymlinksInPath().deletingLastPathComponent().deletingLastPathComponent()

    private static let absent: Set<String> = ["retention", "Ceph RBD"]

    @Test func everyTrapHasATestThatExistsOrWaitsForWhatIsNotThere() throws {
        let text = try String(
            contentsOf: Self.tests.appendingPathComponent("Traps.md"), encoding: .utf8)
        let rows = text.split(separator: "\n").map(String.init).compactMap { line in
            line.wholeMatch(of: /\| (\d+) \| (.+) \| (.+) \|/)?.output
        }
        #expect(rows.map { String($0.1) } == (1...22).map(String.init))
        let names = try testNames()
        for row in rows {
            let covered = String(row.3)
            let found = covered.matches(of: /`(\w+)`/).map { String($0.output.1) }
            let waitsFor = covered.prefix { $0 != ";" }
            #expect(
                !found.isEmpty || Self.absent.contains(String(waitsFor)),
                "\(row.1): '\(covered)' is neither a test nor what is not there")
            for test in found {
                #expect(names.contains(test) as Bool, "\(row.1): there is no \(test)")
            }
        }
    }

    private func testNames() throws -> Set<String> {
        var names: Set<String> = []
        let files = FileManager.default.enumerator(
            at: Self.tests, includingPropertiesForKeys: nil)
        for case let file as URL in try #require(files) where file.pathExtension == "swift" {
            let source = try String(contentsOf: file, encoding: .utf8)
            names.formUnion(source.matches(of: /func (\w+)\(/).map { String($0.output.1) })
        }
        return names
    }
}
