/// What a command that starts a job says of the job itself.
package protocol JobArguments {
    /// Absent: the command says which.
    var jobID: String? { get }
    /// Whether it ends by itself once its work is done, and not only with `job-finalize`.
    /// Absent: true.
    var autoFinalize: Bool? { get }
    /// Absent: true.
    var autoDismiss: Bool? { get }
}

/// The same of a job that reads one thing and writes another.
package protocol CopyJobArguments: JobArguments {
    /// Absent: report.
    var onSourceError: OnError? { get }
    /// Absent: report.
    var onTargetError: OnError? { get }
}

extension BlockStream.Arguments: JobArguments {}
extension BlockCommit.Arguments: JobArguments {}
extension PointVerify.Arguments: JobArguments {}
extension PointRestore.Arguments: CopyJobArguments {}
extension VolumeBackup.Arguments: CopyJobArguments {}
