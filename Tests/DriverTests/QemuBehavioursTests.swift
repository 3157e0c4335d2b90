import Foundation
import Testing

/// `QemuBehaviours.md` lists what QEMU's tests check; what it names must exist.
@Suite struct QemuBehavioursTests {
    private static let folder = URL(fileURLWithPath: #filePath)
        .resolvingSymlinksInPath().deletingLastPathComponent()

    private static let numbers = [
        "024", "029", "031", "036", "039", "042", "046", "060", "061", "066", "080", "098", "103",
        "114", "122", "138", "176", "179", "188", "204", "214", "217", "220", "225", "244", "261",
        "264", "271", "287",
    ]

    private static let reasons: Set<String> = [
        "another format or protocol", "encryption", "QEMU's command line", "VM state", "iothreads",
    ]

    @Test func everyBehaviourHasATestThatExistsOrAReason() throws {
        let text = try String(
            contentsOf: Self.folder.appendingPathComponent("QemuBehaviours.md"), encoding: .utf8)
        let rows = text.split(separator: "\n").map(String.init).compactMap { line in
            line.wholeMatch(of: /\| (\d{3}) \| (.+) \| (.+) \|/)?.output
        }
        #expect(rows.map { String($0.1) } == Self.numbers)
        let names = try testNames()
        for row in rows {
            let covered = String(row.3)
            if Self.reasons.contains(covered) { continue }
            let tests = covered.matches(of: /`(\w+)`/).map { String($0.output.1) }
            #expect(!tests.isEmpty, "\(row.1): '\(covered)' is neither a test nor a known reason")
            for test in tests {
                #expect(
                    names.contains(test) as Bool, "\(row.1): there is no \(test)")
            }
        }
    }

    /// The names of all functions in the tests of the drivers and of the volumes.
    private func testNames() throws -> Set<String> {
        var names: Set<String> = []
        let tests = Self.folder.deletingLastPathComponent()
        for folder in ["DriverTests", "VolumesTests"] {
            let files = FileManager.default.enumerator(
                at: tests.appendingPathComponent(folder), includingPropertiesForKeys: nil)
            for case let file as URL in try #require(files) where file.pathExtension == "swift" {
                let source = try String(contentsOf: file, encoding: .utf8)
                names.formUnion(source.matches(of: /func (\w+)\(/).map { String($0.output.1) })
            }
        }
        return names
    }
}
