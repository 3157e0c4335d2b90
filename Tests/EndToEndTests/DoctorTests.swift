import Foundation
import TestSupport
import Testing

/// `tidemark doctor` finds what is wrong and says what to do; `rebuild-catalog` brings back what a
/// lost catalog knew.
@Suite(.serialized) struct DoctorTests {
    private let directory: TemporaryDirectory
    private let agent: AgentProcess
    private let image: String

    init() throws {
        directory = try TemporaryDirectory()
        image = directory.path("disk.raw")
        try Tool.check(["qemu-img", "create", "-q", "-f", "raw", image, "8M"])
        agent = try AgentProcess(state: directory.path("state"))
        try agent.tell("volume", "import", "disk", image, "--format", "raw")
        try agent.tell("repo", "init", "vault", directory.path("vault"))
    }

    private struct Problem: Decodable {
        let severity: String
        let subject: String
        let problem: String
        let remedy: String
    }

    private func diagnose(_ agent: AgentProcess) throws -> (status: Int32, problems: [Problem]) {
        let result = try agent.run(["--json", "doctor"])
        let problems = try JSONDecoder().decode([Problem].self, from: Data(result.output.utf8))
        return (result.status, problems)
    }

    private var copies: [String] {
        let folder = directory.path("vault/catalogs")
        return (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
    }

    /// The copy is made behind the backup.
    private func waitForCopy() throws {
        let deadline = Date(timeIntervalSinceNow: 10)
        while !copies.contains(where: { $0.hasSuffix(".sqlite") }) {
            guard Date() < deadline else {
                throw Tool.Failure(description: "no copy of the catalog in \(copies)")
            }
            usleep(20_000)
        }
    }

    @Test func aSoundAgentHasNoProblems() throws {
        _ = try agent.backUp("disk")
        try waitForCopy()
        let (status, problems) = try diagnose(agent)
        #expect(status == 0)
        #expect(problems.isEmpty, "\(problems)")
        #expect(try agent.tell("doctor") == "nothing is wrong\n")
    }

    @Test func everyKindOfTroubleIsNamedWithItsRemedy() throws {
        let point = try agent.backUp("disk")
        try waitForCopy()
        agent.stop(SIGTERM)
        // The disk of one volume is gone, that of another was written behind the agent, a point
        // lost its data, a repository is not mounted.
        let second = try AgentProcess(state: directory.path("state"))
        let other = directory.path("other.raw")
        try Tool.check(["qemu-img", "create", "-q", "-f", "raw", other, "1M"])
        try second.tell("volume", "import", "other", other, "--format", "raw")
        try second.tell("repo", "init", "away", directory.path("away"))
        second.stop(SIGTERM)
        try FileManager.default.removeItem(atPath: other)
        try FileManager.default.removeItem(atPath: directory.path("away"))
        try Tool.check(["qemu-io", "-f", "raw", "-c", "write -P 9 0 64k", image])
        let folder = try #require(
            try FileManager.default.contentsOfDirectory(atPath: directory.path("vault"))
                .first { $0.hasPrefix("disk.") })
        try FileManager.default.removeItem(
            atPath: directory.path("vault/\(folder)/\(point.id).qcow2"))

        let third = try AgentProcess(state: directory.path("state"))
        let (status, problems) = try diagnose(third)
        #expect(status == 1)
        func severity(_ subject: String, _ text: String) -> String? {
            problems.first {
                $0.subject.hasPrefix(subject) && $0.problem.contains(text) && !$0.remedy.isEmpty
            }?.severity
        }
        #expect(severity("volume other", other) == "error", "\(problems)")
        #expect(severity("point \(point.id)", "qcow2") == "error", "\(problems)")
        #expect(severity("repository away", directory.path("away")) == "error", "\(problems)")
        #expect(severity("bitmap ", "inconsistent") == "warning", "\(problems)")
        #expect(problems.count == 4, "\(problems)")
    }

    @Test func withoutAnAgentItSaysSoAndChecksTheCatalog() throws {
        agent.stop(SIGTERM)
        let (status, problems) = try diagnose(agent)
        #expect(status == 1)
        #expect(problems.map(\.subject) == ["agent"])
        let catalog = directory.path("state/catalog.sqlite")
        try Data("no catalog".utf8).write(to: URL(fileURLWithPath: catalog))
        let damaged = try diagnose(agent).problems
        #expect(damaged.first?.subject == "catalog")
        #expect(damaged.first?.remedy.contains("rebuild-catalog") == true)
    }

    @Test func aLostCatalogComesBackFromTheCopyInTheRepository() throws {
        let first = try agent.backUp("disk")
        try waitForCopy()
        agent.stop(SIGKILL)
        for suffix in ["", "-wal", "-shm"] {
            try? FileManager.default.removeItem(
                atPath: directory.path("state/catalog.sqlite\(suffix)"))
        }
        try Tool.check(["qemu-io", "-f", "raw", "-c", "write -P 9 1M 64k", image])
        let output = try agent.run(["repo", "rebuild-catalog", directory.path("vault")])
        #expect(output.status == 0, "\(output.errors)")
        #expect(output.output.contains("volumes again: disk"))

        let second = try AgentProcess(state: directory.path("state"))
        #expect(try second.tell("points").contains(first.id))
        let shown = try second.tell("volume", "show", "disk")
        #expect(shown.contains("copy of the catalog"), "\(shown)")
        let point = try second.backUp("disk")
        #expect(point.reason == "bitmap-inconsistent")
        let restored = try second.restore(point.id, to: directory.path("restored.raw"))
        #expect(try restored == readFile(image))
        #expect(restored[1 << 20] == 9)
        #expect(try second.backUp("disk").level == "incremental")
    }

    @Test func anotherHostsCopyBringsNoVolumes() throws {
        _ = try agent.backUp("disk")
        try waitForCopy()
        agent.stop(SIGTERM)
        let other = directory.path("another-state")
        let output = try agent.run([
            "--state", other, "repo", "rebuild-catalog", directory.path("vault"),
        ])
        #expect(output.status == 0, "\(output.errors)")
        #expect(!output.output.contains("volumes again"))
    }
}
