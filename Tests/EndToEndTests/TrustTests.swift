import Foundation
import TestSupport
import Testing

/// What the agent makes of an image that something else has written while it was away.
@Suite(.serialized) struct TrustTests {
    @Test(arguments: ["raw", "qcow2"])
    func anImageThatNobodyTouchedGoesOnWithIncrements(format: String) throws {
        let lab = try TrustLab(format: format)
        for round in 1...2 {
            try lab.stopCleanly()
            try lab.start()
            try lab.writeThroughAgent(round)
            try lab.expectBackup(level: "incremental", reason: "bitmap")
        }
    }

    @Test(arguments: ["raw", "qcow2"])
    func aWriteWhileTheAgentWasAwayLeadsToAComparison(format: String) throws {
        let lab = try TrustLab(format: format)
        try lab.stopCleanly()
        try lab.writeBehindTheAgent(lab.image, format: format)
        try lab.start()
        let reason = try #require(try lab.inconsistency())
        #expect(reason.contains(lab.image))
        let shown = try lab.agent.tell("volume", "show", "disk")
        #expect(shown.contains("inconsistent") && shown.contains(reason))
        try lab.expectBackup(level: "incremental", reason: "bitmap-inconsistent")
        try lab.writeThroughAgent(1)
        try lab.expectBackup(level: "incremental", reason: "bitmap")
    }

    @Test func inQcow2TheMarkShowsAWriteWhoseTimeWasSetBack() throws {
        let lab = try TrustLab(format: "qcow2")
        try lab.stopCleanly()
        let before = try lab.look(lab.image)
        try lab.writeBehindTheAgent(lab.image, format: "qcow2")
        try lab.setTime(of: lab.image, to: before)
        #expect(try lab.look(lab.image) == before, "the write showed in size, inode or time")
        try lab.start()
        #expect(try lab.inconsistency()?.contains("mark") == true)
        try lab.expectBackup(level: "incremental", reason: "bitmap-inconsistent")
    }

    @Test func inRawAWriteWhoseTimeWasSetBackIsNotSeen() throws {
        let lab = try TrustLab(format: "raw")
        try lab.stopCleanly()
        let before = try lab.look(lab.image)
        try lab.writeBehindTheAgent(lab.image, format: "raw")
        try lab.setTime(of: lab.image, to: before)
        try lab.start()
        #expect(try lab.inconsistency() == nil, "the documented limit has gone: say so")
    }

    @Test(arguments: ["raw", "qcow2"])
    func anImageThatWasReplacedByACopyIsNotTrusted(format: String) throws {
        let lab = try TrustLab(format: format)
        try lab.stopCleanly()
        try Tool.check(["cp", "--preserve=all", lab.image, lab.image + ".copy"])
        try Tool.check(["mv", lab.image + ".copy", lab.image])
        try lab.start()
        #expect(try lab.inconsistency()?.contains("replaced") == true)
        try lab.expectBackup(level: "incremental", reason: "bitmap-inconsistent")
    }

    @Test(arguments: ["raw", "qcow2"])
    func afterAKillIncrementsGoOn(format: String) throws {
        let lab = try TrustLab(format: format)
        try lab.writeThroughAgent(1)
        lab.kill()
        try lab.start()
        #expect(try lab.inconsistency() == nil)
        try lab.expectBackup(level: "incremental", reason: "bitmap")
    }

    @Test(arguments: ["raw", "qcow2"])
    func aChangeLongAfterAKillIsSeen(format: String) throws {
        let lab = try TrustLab(format: format)
        try lab.writeThroughAgent(1)
        lab.kill()
        try lab.writeBehindTheAgent(lab.image, format: format)
        try Tool.check(["touch", "-d", "+60 seconds", lab.image])
        try lab.start()
        #expect(try lab.inconsistency()?.contains("after the agent's unclean stop") == true)
        try lab.expectBackup(level: "incremental", reason: "bitmap-inconsistent")
    }

    @Test func anImageThatWasPutBackAfterAKillIsNotTrusted() throws {
        let lab = try TrustLab(format: "raw")
        try lab.writeThroughAgent(1)
        lab.kill()
        try Tool.check(["touch", "-d", "-1 day", lab.image])
        try lab.start()
        #expect(try lab.inconsistency()?.contains("put back") == true)
    }

    @Test func theHeartbeatGoesOnWhileTheVolumeIsOpen() throws {
        let lab = try TrustLab(format: "raw")
        let first = try lab.heartbeatSeconds()
        sleep(6)
        #expect(try lab.heartbeatSeconds() - first >= 4)
    }

    @Test(arguments: [true, false])
    func aChangedBackingFileIsNotTrusted(cleanly: Bool) throws {
        let lab = try TrustLab(format: "qcow2", hasBacking: true)
        if cleanly { try lab.stopCleanly() } else { lab.kill() }
        try lab.writeBehindTheAgent(lab.backing, format: "raw")
        try lab.start()
        #expect(try lab.inconsistency()?.contains(lab.backing) == true)
        try lab.expectBackup(level: "incremental", reason: "bitmap-inconsistent")
    }
}

/// An agent with one imported volume, "disk", which has been backed up once.
private final class TrustLab {
    let directory: TemporaryDirectory
    let image: String
    let backing: String
    private(set) var agent: AgentProcess

    init(format: String, hasBacking: Bool = false) throws {
        directory = try TemporaryDirectory()
        image = directory.path("disk.img")
        backing = directory.path("base.img")
        if hasBacking {
            try Tool.check(["qemu-img", "create", "-q", "-f", "raw", backing, "8M"])
            try Tool.check([
                "qemu-img", "create", "-q", "-f", format, "-b", backing, "-F", "raw", image,
            ])
        } else {
            try Tool.check(["qemu-img", "create", "-q", "-f", format, image, "8M"])
        }
        // Allocated already, so that later writes change no size.
        try Tool.check(["qemu-io", "-f", format, "-c", "write -P 1 0 4M", image])
        agent = try AgentProcess(state: directory.path("state"))
        try agent.tell("volume", "import", "disk", image, "--format", format)
        try agent.tell("repo", "init", "vault", directory.path("vault"))
        _ = try agent.backUp("disk")
    }

    func start() throws { agent = try AgentProcess(state: directory.path("state")) }

    func stopCleanly() throws {
        agent.stop(SIGTERM)
        #expect(agent.exitStatus == 0)
    }

    func kill() { agent.stop(SIGKILL) }

    func writeThroughAgent(_ round: Int) throws {
        try Tool.check([
            "qemu-io", "-f", "raw", "-c", "write -P \(10 + round) \(round)M 100k",
            agent.uri("disk"),
        ])
    }

    func writeBehindTheAgent(_ path: String, format: String) throws {
        try Tool.check(["qemu-io", "-f", format, "-c", "write -P 99 3M 64k", path])
    }

    /// Size, inode and time.
    func look(_ path: String) throws -> String {
        try Tool.check(["stat", "-c", "%s %i %.9Y", path])
    }

    func setTime(of path: String, to look: String) throws {
        let time = look.split(whereSeparator: \.isWhitespace)[2]
        try Tool.check(["touch", "-d", "@\(time)", path])
    }

    /// When the volume is known to have been open, by the catalog's word.
    func heartbeatSeconds() throws -> Double {
        let output = try Tool.check([
            "python3", "-c",
            "import sqlite3,sys; print(sqlite3.connect('file:'+sys.argv[1]+'?mode=ro', uri=True)"
                + ".execute('SELECT heartbeatAt FROM volume').fetchone()[0] / 1e6)",
            "\(agent.state)/catalog.sqlite",
        ])
        return try #require(Double(output.filter { !$0.isWhitespace }))
    }

    /// Why the one bitmap is inconsistent, if it is.
    func inconsistency() throws -> String? {
        struct Bitmap: Decodable {
            let inconsistent: Bool?
            let reason: String?
        }
        let output = try agent.tell("--json", "bitmap", "list", "disk")
        let bitmaps = try JSONDecoder().decode([Bitmap].self, from: Data(output.utf8))
        #expect(bitmaps.count == 1)
        return bitmaps.first.flatMap { $0.inconsistent == true ? $0.reason ?? "" : nil }
    }

    /// Backs up at level auto: the point must restore to what the disk holds. Where it was compared
    /// it must hold no more than what was written, at most 100 KiB in three granules.
    func expectBackup(level: String, reason: String) throws {
        let point = try agent.backUp("disk")
        #expect(point.level == level && point.reason == reason)
        #expect(reason == "bitmap" || point.storedBytes <= 3 * 65536)
        let restored = try agent.restore(point.id, to: directory.path("restored"))
        defer { unlink(directory.path("copy")) }
        let isSame = try agent.copy("disk", to: directory.path("copy")) == restored
        #expect(isSame, "the point differs from the disk")
    }
}
