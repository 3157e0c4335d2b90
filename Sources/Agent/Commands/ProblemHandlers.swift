import BlockCore
import Control

#if DEBUG
    import Volumes
#endif

extension Agent {
    /// What looks for trouble, and what may become it.
    func registerProblemCommands(in table: inout CommandTable) {
        table.on(QueryProblems.self) { _ in try await Diagnosis(agent: self).run() }
        table.on(QueryMemory.self) { _ in
            let used = MemoryBudget.shared.usedBytes
            return MemoryInfo(
                limit: MemoryBudget.shared.limitBytes, requests: used[.requests] ?? 0,
                fleeces: used[.fleeces] ?? 0, caches: used[.caches] ?? 0, jobs: used[.jobs] ?? 0)
        }
        #if DEBUG
            table.on(DebugRetireRegions.self) { _ in
                try await volumes.retireCold(after: .zero)
                return Nothing()
            }
        #endif
    }
}
