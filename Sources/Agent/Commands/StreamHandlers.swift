import Control
import Jobs

extension Agent {
    func registerStreamCommands(in table: inout CommandTable) {
        table.on(BlockStream.self) { arguments in
            let job = try await overlays.stream(
                arguments.device, id: arguments.jobID, speedBytes: arguments.speed ?? 0,
                autoDismiss: arguments.autoDismiss ?? true)
            return StartedJob(jobID: job.id)
        }
    }
}
