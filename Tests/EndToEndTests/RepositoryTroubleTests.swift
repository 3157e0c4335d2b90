import Foundation
import TestSupport
import Testing

/// A repository that hangs, takes a megabyte a second, fills up, or vanishes and comes back, while a
/// backup to it is under way and a guest writes: the guest goes on, the point is whole or absent, what
/// the user reads names the cause, and the next backup is right.
@Suite(.serialized) struct RepositoryTroubleTests {
    enum Trouble: CaseIterable {
        case hangs, isSlow, fillsUp, vanishes
    }

    @Test(arguments: Trouble.allCases)
    func theGuestGoesOnAndNothingIsLost(trouble: Trouble) throws {
        let run = try TroubleRun(
            dataMegabytes: trouble == .isSlow ? 2 : 5, roomMegabytes: trouble == .fillsUp ? 10 : 200
        )
        try run.begin(limit: trouble == .isSlow ? nil : "4M", isSlow: trouble == .isSlow)
        switch trouble {
        case .hangs:
            run.repository.hang()
            usleep(1_500_000)
            #expect(run.backup.isRunning)
            run.noteGuest()
            kill(run.backup.processIdentifier, SIGINT)
            // It ends without the repository.
            let errors = run.waitForEnd()
            #expect(errors.contains(run.repository.path), "\(errors)")
            #expect(errors.contains("does not answer"), "\(errors)")
            run.repository.resume()
            try run.expectAbsent()
        case .isSlow:
            usleep(1_500_000)
            #expect(run.backup.isRunning)
            run.noteGuest()
            let errors = run.waitForEnd()
            #expect(run.backup.terminationStatus == 0, "\(errors)")
            try run.expectWhole()
        case .fillsUp:
            let errors = run.waitForEnd()
            run.noteGuest()
            #expect(errors.contains(run.repository.path), "\(errors)")
            #expect(errors.contains("No space left on device"), "\(errors)")
            try run.expectAbsent()
            try run.repository.resize(megabytes: 200)
        case .vanishes:
            run.repository.kill()
            let errors = run.waitForEnd()
            run.noteGuest()
            #expect(errors.contains(run.repository.path), "\(errors)")
            #expect(
                errors.contains("not connected") || errors.contains("connection abort")
                    || errors.contains("No such file"), "\(errors)")
            try run.repository.start()
        }
        try run.expectNextBackupRight()
        if trouble == .vanishes { try run.expectAbsent() }
    }
}

/// A full point that went well, and another backup under way, with a guest writing.
private final class TroubleRun {
    static let lengthBytes = (24 << 20) + 4321

    let directory: TemporaryDirectory
    let repository: TroubledDirectory
    private let agent: AgentProcess
    private(set) var backup = Process()
    private var guest: Guest?
    private var before: [UInt8] = []
    private var struck: Int64 = 0

    init(dataMegabytes: Int, roomMegabytes: Int) throws {
        directory = try TemporaryDirectory()
        repository = try TroubledDirectory(in: directory, megabytes: roomMegabytes)
        agent = try AgentProcess(state: directory.path("state"))
        try agent.tell("volume", "create", "disk", "--size", "\(Self.lengthBytes)")
        try Tool.check([
            "qemu-io", "-f", "raw", "-c", "write -P 9 1M \(dataMegabytes)M", "-c", "flush",
            agent.uri("disk"),
        ])
        try agent.tell("repo", "init", "vault", repository.path)
        _ = try agent.backUp("disk")
        before = try agent.copy("disk", to: directory.path("copy"))
    }

    /// Starts a guest and a full backup, and waits until a part of that is stored.
    func begin(limit: String?, isSlow: Bool) throws {
        if isSlow {
            repository.kill()
            try repository.start(options: ["--write-rate=1M"])
        }
        guest = try Guest(uri: agent.uri("disk"), seed: 1, log: directory.path("guest.log"))
        let stored = try repository.storedBytes()
        backup = try agent.begin(
            ["backup", "disk", "--repo", "vault", "--level", "full", "--no-space-check"]
                + (limit.map { ["--limit", $0] } ?? []),
            errorsTo: directory.path("errors"))
        let deadline = Date(timeIntervalSinceNow: 20)
        while try repository.storedBytes() < stored + (1 << 20) {
            guard backup.isRunning, Date() < deadline else {
                throw Tool.Failure(description: "the backup does not store anything")
            }
            usleep(5_000)
        }
        struck = Self.now
    }

    /// What the guest did since the trouble began: a lot, and none of it took long.
    func noteGuest() {
        usleep(300_000)
        let text = try? String(contentsOfFile: directory.path("guest.log"), encoding: .utf8)
        let since = GuestLog(text ?? "").requests.filter { $0.issued > struck }
        let answered = since.compactMap { request in
            request.acknowledged.map { $0 - request.issued }
        }
        #expect(answered.count > 100, "\(answered.count) requests were answered")
        #expect(since.count - answered.count <= 8, "requests are stuck")
        #expect(answered.max() ?? 0 < 1_000_000_000, "a request took \(answered.max() ?? 0) ns")
    }

    /// Waits for the backup, and returns what it said.
    func waitForEnd() -> String {
        let deadline = Date(timeIntervalSinceNow: 60)
        while backup.isRunning, Date() < deadline { usleep(10_000) }
        if backup.isRunning {
            Issue.record("the backup does not end")
            kill(backup.processIdentifier, SIGKILL)
        }
        backup.waitUntilExit()
        return (try? String(contentsOfFile: directory.path("errors"), encoding: .utf8)) ?? ""
    }

    /// There is nothing of the point but, if the repository was away, what the next use removes.
    func expectAbsent() throws {
        let deadline = Date(timeIntervalSinceNow: 10)
        while try repository.names().contains(where: { $0.hasSuffix(".tmp") }), Date() < deadline {
            usleep(20_000)
        }
        let names = try repository.names()
        #expect(!names.contains { $0.hasSuffix(".tmp") }, "\(names)")
        #expect(backup.terminationStatus != 0)
        let levels = try points().map(\.level)
        #expect(levels.filter { $0 == "full" }.count == 1, "\(levels)")
    }

    /// The point shows the instant of its freeze.
    func expectWhole() throws {
        let made = try points()
        #expect(made.map(\.level) == ["full", "full"])
        let point = try #require(made.last)
        let log = try #require(try guest?.finish())
        guest = nil
        let manifest = try repository.names().first { $0.hasSuffix("\(point.id).json") }
        let path = "\(repository.path)/\(try #require(manifest))"
        let restored = try agent.restore(point.id, to: directory.path("restored"))
        let fault = log.fault(
            of: restored, before: before,
            freezeMilliseconds: try freezeMilliseconds(ofManifest: path))
        #expect(fault == nil)
    }

    /// Nothing is missing from what the next backup makes, which is an increment by the bitmap.
    func expectNextBackupRight() throws {
        _ = try guest?.finish()
        guest = nil
        let next = try agent.backUp("disk")
        #expect(next.level == "incremental" && next.reason == "bitmap")
        let content = try agent.copy("disk", to: directory.path("copy"))
        let restored = try agent.restore(next.id, to: directory.path("restored"))
        #expect(restored == content)
        let verified = try agent.run(["verify", "--repo", "vault"])
        #expect(verified.status == 0, "\(verified.output)\(verified.errors)")
    }

    private struct Point: Decodable {
        let id: String
        let level: String
    }

    private func points() throws -> [Point] {
        try JSONDecoder().decode(
            [Point].self, from: Data(try agent.tell("--json", "points").utf8))
    }

    private static var now: Int64 { Int64(Date().timeIntervalSince1970 * 1e9) }
}
