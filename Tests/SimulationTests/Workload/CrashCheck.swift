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
        let trust = workload.trust(in: volume, at: now, isPowerLoss: isPowerLoss)
        for bitmap in bitmaps where trust != .open {
            if (bitmap["inconsistent"] as? Bool == true) != (trust == .none) {
                faults.append("\(volume.name): a bitmap deserves \(trust) trust: \(bitmap)")
            }
        }
        let connection = try agent.connect(to: volume.name, bitmaps: names)
        let content = try connection.read(0..<connection.sizeBytes)
        let image = SectorImage(content, seams: guest.seams)
        if let fault = guest.fault(ofLength: content.count, certain: now, possible: now) {
            faults.append("\(volume.name): \(fault)")
        }
        let certain = isPowerLoss ? guest.durableMoment(at: now) : now
        if let fault = guest.fault(of: image, certain: certain, possible: now) {
            faults.append("\(volume.name): \(fault)")
        }
        for bitmap in volume.bitmaps.values where bitmap.exists(at: now) {
            if !bitmaps.contains(where: { $0["name"] as? String == bitmap.name }) {
                faults.append("\(volume.name): bitmap \(bitmap.name) is gone")
            }
        }
        try checkBitmaps(of: volume, names, image, connection)
        var newest: SectorImage?
        for point in points where point["volume"] as? String == volume.name {
            newest = try checkContent(of: point, of: volume, agent)
        }
        if let newest, names.contains("vault") {
            let differences = image.differences(from: newest).filter { $0 < image.sectorCount }
            let clean = Self.uncovered(differences, try connection.dirtyRanges(of: "vault"))
            if let sector = clean {
                faults.append("\(volume.name): sector \(sector) differs from the newest point")
            }
        }
        try checkNextBackup(
            of: volume, content, isTrusted: trust == .full, hasPoint: newest != nil, agent)
        if !volume.resizes.isEmpty { try checkGrowth(of: volume, content, agent) }
    }

    /// What a cut left of an image, which a crash may have kept from being cut, must not show.
    private func checkGrowth(
        of volume: SimulatedVolume, _ content: [UInt8], _ agent: RecordedAgent
    ) throws {
        let addedBytes = 12 << 20
        try agent.control.tell(
            "block_resize", ["node-name": volume.name, "size": content.count + addedBytes])
        let grown = try agent.connect(to: volume.name).read(0..<content.count + addedBytes)
        let expected = content + [UInt8](repeating: 0, count: addedBytes)
        if let place = grown.firstDifference(from: expected) {
            faults.append(
                "\(volume.name): grown after the crash it differs at byte \(place), old length "
                    + "\(content.count)")
        }
    }

    private func checkBitmaps(
        of volume: SimulatedVolume, _ names: [String], _ image: SectorImage,
        _ connection: GuestConnection
    ) throws {
        for bitmap in volume.bitmaps.values
        where bitmap.exists(at: now) && names.contains(bitmap.name) {
            let required = bitmap.requests(of: volume.guest, at: now, others: volume.bitmaps)
            var sectors: Set<Int> = []
            for index in required {
                let request = volume.guest.requests[index]
                let isDone =
                    request.answered.map { $0 < now } ?? false
                    || request.lengthBytes == image.lengthBytes
                // What a request that was never answered did is seen only by its stamp.
                sectors.formUnion(
                    request.sectors.clamped(to: 0..<image.sectorCount).filter {
                        isDone || (image[$0] == request.stamp && request.stamp != 0)
                    })
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
        let image = SectorImage(try restore(id, agent), seams: volume.guest.seams)
        // One whose backup was never answered is the last that was asked for.
        let known =
            workload.points.first { $0.id == id && $0.volume === volume }
            ?? workload.points.last { $0.id == nil && $0.volume === volume && $0.begun < now }
        if let known {
            let possible = min(known.frozen, now)
            let guest = volume.guest
            let fault =
                guest.fault(ofLength: image.lengthBytes, certain: known.begun, possible: possible)
                ?? guest.fault(of: image, certain: known.begun, possible: possible)
            if let fault { faults.append("point \(id) of \(volume.name): \(fault)") }
        } else {
            faults.append("point \(id) was never asked for")
        }
        return image
    }

    private func checkNextBackup(
        of volume: SimulatedVolume, _ content: [UInt8], isTrusted: Bool, hasPoint: Bool,
        _ agent: RecordedAgent
    ) throws {
        guard try !agent.control.list("query-repositories").isEmpty else { return }
        let started =
            try agent.control.tell(
                "volume-backup",
                ["volumes": [volume.name], "repository": "vault", "auto-dismiss": false])
            as? [String: Any]
        let result = try agent.control.finishJob(started?["job-id"] as? String ?? "")
        let point = (result["points"] as? [[String: Any]])?.first ?? [:]
        let reasons = volume.resizes.isEmpty ? ["bitmap"] : ["bitmap", "resized"]
        if isTrusted, hasPoint,
            point["level"] as? String != "incremental"
                || !reasons.contains(point["reason"] as? String ?? "")
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
                of: SectorImage(bytes, seams: point.volume.guest.seams), certain: point.begun,
                possible: point.frozen)
            {
                faults.append("\(restore.target), restored: \(fault)")
            }
        }
    }
}
