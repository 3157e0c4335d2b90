import ArgumentParser
import Control

/// `tidemark mirror`: keeps another image in step with a volume.
struct MirrorCommand: ClientCommand {
    static let configuration = CommandConfiguration(
        commandName: "mirror",
        abstract: "Copy a volume to another image, and keep that in step.",
        discussion: """
            Once the target has all that the volume has, the job is ready and follows what guests \
            write. `job complete` then makes the target the volume's image, at an instant at which \
            both are equal; `job cancel` at such an instant leaves the target as a copy. With \
            --wait this command returns when the job is ready.

            TARGET is a file, which is made unless --existing is given, or the URI of an NBD \
            export. With --sync incremental only what the bitmap has marked is copied.

            Example:
              tidemark mirror vm1 /fast/vm1.qcow2 --sync full --wait
              tidemark job complete vm1
            """)

    @OptionGroup var global: GlobalOptions

    @Argument(help: "The volume.")
    var volume: String

    @Argument(help: "A file, or the URI of an NBD export.")
    var target: String

    @Option(help: "full, top, none, incremental or bitmap.")
    var sync: MirrorSyncMode

    @Option(help: "The bitmap that says what to copy.")
    var bitmap: String?

    @Option(help: "What becomes of it: on-success, never or always.")
    var bitmapMode: BitmapSyncMode?

    @Option(help: "A file of the volume's chain: copy what the images above it hold.")
    var base: String?

    @Option(help: "background, or write-blocking: a guest waits until the target has its write.")
    var copyMode: MirrorCopyMode?

    @Flag(help: "Go over to write-blocking if guests write faster than the mirror copies.")
    var autoConverge = false

    @Option(help: "The format of the target: qcow2 or raw.")
    var format: ImageFormat?

    @Flag(help: "Write to a target that is there.")
    var existing = false

    @Flag(help: "Name the target's backing file by a relative path.")
    var relativePaths = false

    @Option(help: .size("The most to copy in a second.", valueName: "rate"))
    var limit: ByteSize?

    @Option(help: "The id of the job. (default: the volume's name)")
    var jobID: String?

    @Flag(help: "Return when the job is ready, or has failed.")
    var wait = false

    func run(_ agent: AgentSession) async throws {
        var arguments = DriveMirror.Arguments(
            device: volume, target: HostPath.absolute(target), sync: sync)
        arguments.jobID = jobID
        arguments.bitmap = bitmap
        arguments.bitmapMode = bitmapMode
        arguments.base = base.map { HostPath.absolute($0) }
        arguments.copyMode = copyMode
        arguments.autoConverge = autoConverge ? true : nil
        arguments.format = format
        arguments.mode = existing ? .existing : relativePaths ? .relativePaths : .absolutePaths
        arguments.speed = limit?.bytes
        // A mirror that fails is to be seen by whoever looks for it.
        arguments.autoDismiss = false
        let id = try await agent.execute(DriveMirror.self, arguments).jobID
        var jobs = try await agent.execute(QueryJobs.self, .init(id: id))
        while wait, let job = jobs.first, job.status == .created || job.status == .running {
            try await Task.sleep(for: .milliseconds(100))
            jobs = try await agent.execute(QueryJobs.self, .init(id: id))
        }
        guard let job = jobs.first else { return }
        if let error = job.error { throw CommandFailure(.failed, "mirror \(id): \(error)") }
        try agent.console.result(job) { "\(id): \(job.status.rawValue)" }
    }
}
