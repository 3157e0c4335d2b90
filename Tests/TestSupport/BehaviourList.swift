import Foundation
import Testing

/// A list of what another project's tests check, as rows `| number | behaviour | test or reason |`.
public struct BehaviourList {
    private let rows: [(key: String, covered: String)]
    private let folder: URL
    /// The numbers of its sections.
    public let sections: Set<String>

    /// Reads the list `name` beside the test `file`.
    public init(_ name: String, beside file: String = #filePath) throws {
        folder = URL(fileURLWithPath: file).resolvingSymlinksInPath().deletingLastPathComponent()
        let text = try String(contentsOf: folder.appendingPathComponent(name), encoding: .utf8)
        rows = text.split(separator: "\n").compactMap { line in
            line.wholeMatch(of: /\| (\w+(?:, \w+)*) \| (.+) \| (.+) \|/).map {
                (String($0.output.1), String($0.output.3))
            }
        }.filter { $0.key != "case" && $0.key != "number" }
        sections = Set(text.matches(of: #/\n## (\d{3}) /#).map { String($0.output.1) })
    }

    /// What its rows are about, in their order.
    public var keys: [String] { rows.map(\.key) }

    /// Each row must name tests that exist, or one of `reasons` why there is none.
    public func expectCovered(orFor reasons: Set<String>) throws {
        let names = try testNames()
        for row in rows where !reasons.contains(row.covered) {
            let tests = row.covered.matches(of: /`(\w+)`/).map { String($0.output.1) }
            #expect(
                !tests.isEmpty, "\(row.key): '\(row.covered)' is neither a test nor a known reason")
            for test in tests {
                #expect(names.contains(test) as Bool, "\(row.key): there is no \(test)")
            }
        }
    }

    /// The names of all functions in all tests.
    private func testNames() throws -> Set<String> {
        var names: Set<String> = []
        let files = FileManager.default.enumerator(
            at: folder.deletingLastPathComponent(), includingPropertiesForKeys: nil)
        for case let file as URL in try #require(files) where file.pathExtension == "swift" {
            let source = try String(contentsOf: file, encoding: .utf8)
            names.formUnion(
                source.matches(of: /@Test[^{]*?func (\w+)\(/).map { String($0.output.1) })
        }
        return names
    }
}
