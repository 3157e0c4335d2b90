import Control
import Jobs

extension Agent {
    func registerStreamCommands(in table: inout CommandTable) {
        table.on(BlockStream.self) { arguments in
            let policy = ErrorPolicy(arguments.onError)
            let device = arguments.device
            let job = try await overlays.stream(
                JobOptions(
                    id: arguments.jobID ?? (JobStore.isWellFormed(device) ? device : nil),
                    type: .stream, device: device, autoFinalize: arguments.autoFinalize ?? true,
                    autoDismiss: arguments.autoDismiss ?? true, speedBytes: arguments.speed ?? 0,
                    onSourceError: policy, onTargetError: policy))
            return StartedJob(jobID: job.id)
        }
    }
}
