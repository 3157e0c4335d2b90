import Control
import Jobs

extension JobOptions {
    /// A job as `arguments` ask for it.
    init(
        _ type: JobType, _ arguments: some JobArguments, device: String? = nil,
        speedBytes: UInt64, onError: OnError? = nil
    ) {
        let policy = ErrorPolicy(onError)
        self.init(
            id: arguments.jobID, type: type, device: device,
            autoFinalize: arguments.autoFinalize ?? true,
            autoDismiss: arguments.autoDismiss ?? true, speedBytes: speedBytes,
            onSourceError: policy, onTargetError: policy)
    }

    /// The same with policies of their own for what is read and what is written.
    init(
        copying type: JobType, _ arguments: some CopyJobArguments, device: String? = nil,
        speedBytes: UInt64
    ) {
        self.init(type, arguments, device: device, speedBytes: speedBytes)
        onSourceError = ErrorPolicy(arguments.onSourceError)
        onTargetError = ErrorPolicy(arguments.onTargetError)
    }
}
