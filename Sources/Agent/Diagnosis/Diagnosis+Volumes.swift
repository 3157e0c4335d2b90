import BlockCore
import Catalog
import Control
import Jobs
import Volumes

extension Diagnosis {
    /// What is wrong with volumes and their bitmaps.
    func volumeProblems() async throws(BlockError) -> [ProblemInfo] {
        var problems: [ProblemInfo] = []
        for (name, reason) in await agent.volumes.unavailable() {
            problems.append(
                ProblemInfo(
                    .error, "volume \(name)", "it is not served: \(reason)",
                    remedy: Self.remedy(for: reason, volume: name)))
        }
        let jobs = await agent.jobs.all()
        let isBackingUp = jobs.contains { $0.type == .backup && $0.status != .concluded }
        for volume in await agent.volumes.volumes() {
            for bitmap in volume.bitmapStatuses() {
                guard let reason = bitmap.inconsistentReason else { continue }
                problems.append(
                    ProblemInfo(
                        .warning, "bitmap \(bitmap.name) of volume \(volume.name)",
                        "it is inconsistent: \(reason)",
                        remedy: "back the volume up, which takes longer this once, or "
                            + "`tidemark bitmap remove \(volume.name) \(bitmap.name)`"))
            }
            // A backup that runs has its bitmap frozen; so has one whose end is not known.
            guard !isBackingUp else { continue }
            for bitmap in volume.frozenBitmaps() {
                problems.append(
                    ProblemInfo(
                        .warning, "bitmap \(bitmap.name) of volume \(volume.name)",
                        "a backup left it frozen, and its repository did not tell yet whether "
                            + "point \(bitmap.pending.pointID) is whole",
                        remedy: "make the repository reachable; the agent asks it every 30 s"))
            }
        }
        return problems
    }

    private static func remedy(for reason: BlockError, volume name: String) -> String {
        switch reason.kind {
        case .notFound:
            "put the file back and restart the agent, restore a point with `tidemark restore`, or "
                + "`tidemark volume remove \(name)`"
        case .busy:
            "stop what uses the image, then restart the agent"
        case .corrupt:
            "look at it with `tidemark image check`; restore a point with `tidemark restore` if "
                + "it cannot be repaired"
        default:
            "remove the cause and restart the agent"
        }
    }
}
