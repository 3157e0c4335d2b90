import ArgumentParser
import Control

/// `tidemark commit`: merges images of a volume into one below them.
struct CommitCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "commit",
        abstract: "Merge images of a volume into one below them.",
        discussion: """
            What the images from --top (default: the volume's own) down to the one above --base \
            (default: the last of the chain) hold is copied into that, and the volume needs them no \
            more; the files stay. No other volume may use the base.

            With --top the command returns when that is done. Without it guests write what is being \
            copied: the job is ready once the base has all of it, and from then on `job complete` \
            makes the base the volume's image, `job cancel` leaves things as they were. With \
            --complete this command asks for that itself, and returns when it is done.

            Example:
              tidemark volume snapshot vm1 /images/vm1-experiment.qcow2
              tidemark commit vm1 --complete
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The volume.")
    var volume: String

    @Option(help: "The uppermost file of the volume's chain that is merged.")
    var top: String?

    @Option(help: "The file of the volume's chain that is written.")
    var base: String?

    @Option(help: "What the image above is to call the base. (default: its path)")
    var backingFile: String?

    @Option(help: .size("The most to copy in a second.", valueName: "rate"))
    var limit: ByteSize?

    @Option(help: "The id of the job. (default: the volume's name)")
    var jobID: String?

    @Flag(help: "Go over to the base as soon as it has everything.")
    var complete = false

    func run(_ agent: AgentSession) async throws {
        var arguments = BlockCommit.Arguments(device: volume)
        arguments.jobID = jobID
        arguments.top = top.map { HostPath.absolute($0) }
        arguments.base = base.map { HostPath.absolute($0) }
        arguments.backingFile = backingFile
        arguments.speed = limit.map { Int64(clamping: $0.bytes) }
        arguments.autoDismiss = false
        let start = arguments
        var (job, wasInterrupted) = try await JobFollower(agent: agent, endsWhenReady: true)
            .follow { try await agent.execute(BlockCommit.self, start).jobID }
        let id = job.id
        if job.status != .concluded {
            guard complete else {
                return try agent.console.result(job) { "\(id): ready" }
            }
            _ = try await agent.execute(JobComplete.self, JobReference(id: id))
            (job, wasInterrupted) = try await JobFollower(agent: agent).follow { id }
        }
        _ = try? await agent.execute(JobDismiss.self, JobReference(id: id))
        try agent.report(job, wasInterrupted: wasInterrupted)
    }
}
