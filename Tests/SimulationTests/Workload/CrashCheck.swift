import Foundation
import TestSupport

// What must hold after a crash, once an agent has recovered from it:
//
//   volumes    are served, and hold what was durable or something newer
//   bitmaps    those of users hold all that they recorded; that of the repository covers all in
//              which the volume differs from the newest point
//   points     all whole, each with its instant's content; none is missing that was made
//   the next   backup is an increment, and restores to exactly what the volume holds
//   restores   whole or absent
//   the end    is a clean one, and images are sound

/// Looks at an agent that starts on what a crash left.
final class CrashCheck {
    private let workload: Workload
    /// How many notes there were before the crash.
    private let now: Moment
    private let isPowerLoss: Bool
    private(set) var faults: [String] = []

    private var machine: Machine { workload.machine }

    init(_ workload: Workload, now: Moment, isPowerLoss: Bool) {
        self.workload = workload
        self.now = now
        self.isPowerLoss = isPowerLoss
    }

    /// Adds to `faults` what does not hold. Throws when the agent cannot go on.
    func run() throws {
        let agent = try RecordedAgent(on: machine, isRecorded: false, mutant: workload.mutant)
        let states = try agent.control.list("query-volumes")
        for state in states where state["state"] as? String != "open" {
            faults.append("volume \(state["name"] ?? "") is not open: \(state["reason"] ?? "")")
        }
        let points = try agent.control.list("query-points")
        try checkPoints(points, agent)
        for volume in workload.volumes where volume.created < now {
            guard states.contains(where: { $0["name"] as? String == volume.name }) else {
                faults.append("volume \(volume.name) is gone")
                continue
            }
            try check(volume, points, agent)
        }
        try checkRestores(states, agent)
        try agent.stop()
        for volume in workload.volumes where volume.created < now && volume.format == "qcow2" {
            let check = try Tool.run(["qemu-img", "check", "-q", volume.path])
            // 3 is leaked clusters, which a crash may leave.
            if check.status != 0 && check.status != 3 {
                faults.append("qemu-img check of \(volume.name): \(check.output)\(check.errors)")
            }
        }
    }

    private func checkPoints(_ points: [[String: Any]], _ agent: RecordedAgent) throws {
        for point in points where point["state"] as? String != "whole" {
            faults.append("point \(point["id"] ?? "") is neither whole nor absent: \(point)")
        }
        let ids = points.compactMap { $0["id"] as? String }
        for point in workload.points {
            guard let id = point.id, let concluded = point.concluded, concluded < now else {
                continue
            }
            if !ids.contains(id) { faults.append("point \(id) is gone") }
        }
        guard !ids.isEmpty else { return }
        let verify =
            try agent.control.tell(
                "point-verify", ["repository": "vault", "auto-dismiss": false]) as? [String: Any]
        let result = try agent.control.finishJob(verify?["job-id"] as? String ?? "")
        if let failures = result["failures"] as? [Any], !failures.isEmpty {
            faults.append("verify: \(failures)")
        }
    }

    private func check(
        _ volume: SimulatedVolume, _ points: [[String: Any]], _ agent: RecordedAgent
    ) throws {
        let guest = volume.guest
        let bitmaps =
            try agent.control.list("query-volumes", ["name": volume.name])
            .first?["bitmaps"] as? [[String: Any]] ?? []
        let names = bitmaps.filter { $0["inconsistent"] as? Bool != true }
            .compactMap { $0["name"] as? String }
        if volume.distrusted == nil {
            for bitmap in bitmaps where bitmap["inconsistent"] as? Bool == true {
                faults.append("\(volume.name): \(bitmap["name"] ?? "") is not trusted: \(bitmap)")
            }
        }
        let connection = try agent.connect(to: volume.name, bitmaps: names)
        let content = try connection.read(0..<connection.sizeBytes)
        let image = SectorImage(content)
        let certain = isPowerLoss ? guest.durableMoment(at: now) : now
        if let fault = guest.fault(of: image, certain: certain, possible: now) {
            faults.append("\(volume.name): \(fault)")
        }
        if volume.distrusted.map({ $0 >= now }) ?? true {
            try checkBitmaps(of: volume, names, image, connection)
        }
        var newest: SectorImage?
        for point in points where point["volume"] as? String == volume.name {
            newest = try checkContent(of: point, of: volume, agent)
        }
        if let newest, names.contains("vault"), volume.distrusted == nil {
            let clean = Self.uncovered(
                image.differences(from: newest), try connection.dirtyRanges(of: "vault"))
            if let sector = clean {
                faults.append("\(volume.name): sector \(sector) differs from the newest point")
            }
        }
        try checkNextBackup(of: volume, content, hasPoint: newest != nil, agent)
    }

    private func checkBitmaps(
        of volume: SimulatedVolume, _ names: [String], _ image: SectorImage,
        _ connection: GuestConnection
    ) throws {
        for bitmap in volume.bitmaps.values where bitmap.exists(at: now) {
            guard names.contains(bitmap.name) else {
                faults.append("\(volume.name): bitmap \(bitmap.name) is gone")
                continue
            }
            let required = bitmap.requests(of: volume.guest, at: now, others: volume.bitmaps)
            var sectors: Set<Int> = []
            for index in required {
                let request = volume.guest.requests[index]
                let isAnswered = request.answered.map { $0 < now } ?? false
                // What a request that was never answered did is seen only by its stamp.
                let isSeen = { image[$0] == request.stamp && request.stamp != 0 }
                sectors.formUnion(request.sectors.filter { isAnswered || isSeen($0) })
            }
            if let sector = Self.uncovered(
                sectors.sorted(), try connection.dirtyRanges(of: bitmap.name))
            {
                let request = required.first {
                    volume.guest.requests[$0].sectors.contains(sector)
                }
                faults.append(
                    "\(volume.name): bitmap \(bitmap.name) does not have sector \(sector) of "
                        + "request \((request ?? -1) + 1)")
            }
        }
    }

    /// The first of `sectors` that no range has.
    private static func uncovered(_ sectors: [Int], _ ranges: [Range<Int>]) -> Int? {
        sectors.first { sector in
            !ranges.contains { $0.contains(sector * GuestHistory.sectorBytes) }
        }
    }

    /// Restores a point, compares it with what it must hold, and returns it.
    private func checkContent(
        of point: [String: Any], of volume: SimulatedVolume, _ agent: RecordedAgent
    ) throws -> SectorImage {
        let id = point["id"] as? String ?? ""
        let image = SectorImage(try restore(id, agent))
        // One whose backup was never answered is the last that was asked for.
        let known =
            workload.points.first { $0.id == id && $0.volume === volume }
            ?? workload.points.last { $0.id == nil && $0.volume === volume && $0.begun < now }
        if let known {
            let possible = min(known.frozen, now)
            if let fault = volume.guest.fault(of: image, certain: known.begun, possible: possible) {
                faults.append("point \(id) of \(volume.name): \(fault)")
            }
        } else {
            faults.append("point \(id) was never asked for")
        }
        return image
    }

    private func checkNextBackup(
        of volume: SimulatedVolume, _ content: [UInt8], hasPoint: Bool, _ agent: RecordedAgent
    ) throws {
        guard try !agent.control.list("query-repositories").isEmpty else { return }
        let started =
            try agent.control.tell(
                "volume-backup",
                ["volumes": [volume.name], "repository": "vault", "auto-dismiss": false])
            as? [String: Any]
        let result = try agent.control.finishJob(started?["job-id"] as? String ?? "")
        let point = (result["points"] as? [[String: Any]])?.first ?? [:]
        let isTrusted = volume.distrusted == nil
        if isTrusted, hasPoint,
            point["level"] as? String != "incremental" || point["reason"] as? String != "bitmap"
        {
            faults.append("\(volume.name): the next backup is no increment: \(point)")
        }
        let restored = try restore(point["id"] as? String ?? "", agent)
        if restored.count != content.count {
            faults.append("\(volume.name): the next point has \(restored.count) bytes")
        } else if let place = restored.firstDifference(from: content) {
            faults.append(
                "\(volume.name): the next point differs at byte \(place), sector \(place / 512)")
        }
    }

    private func restore(_ point: String, _ agent: RecordedAgent) throws -> [UInt8] {
        let path = machine.path("content")
        defer { unlink(path) }
        let started =
            try agent.control.tell(
                "point-restore",
                ["point": point, "target": path, "format": "raw", "auto-dismiss": false])
            as? [String: Any]
        try agent.control.finishJob(started?["job-id"] as? String ?? "")
        return try readFile(path)
    }

    private func checkRestores(_ states: [[String: Any]], _ agent: RecordedAgent) throws {
        for restore in workload.restores {
            let isThere =
                restore.isVolume
                ? states.contains { $0["name"] as? String == restore.target }
                : FileManager.default.fileExists(atPath: restore.target)
            guard isThere else {
                if restore.concluded.map({ $0 < now }) ?? false {
                    faults.append("\(restore.target), which was restored, is gone")
                }
                continue
            }
            let bytes: [UInt8]
            if restore.isVolume {
                let connection = try agent.connect(to: restore.target)
                bytes = try connection.read(0..<connection.sizeBytes)
            } else {
                bytes = try readFile(restore.target)
            }
            let point = restore.point
            if let fault = point.volume.guest.fault(
                of: SectorImage(bytes), certain: point.begun, possible: point.frozen)
            {
                faults.append("\(restore.target), restored: \(fault)")
            }
        }
    }
}
