import Control

/// Jobs for people.
enum JobText {
    /// One line per job.
    static func table(_ jobs: [JobInfo]) -> String {
        var table = TextTable([
            .text("JOB"), .text("TYPE"), .text("STATUS"), .number("DONE"), .number("OF"),
            .text("VOLUMES"), .text("ERROR"),
        ])
        for job in jobs {
            table.append([
                job.id, job.type, job.status.rawValue, ByteSize.text(job.currentProgress),
                ByteSize.text(job.totalProgress),
                (job.volumes ?? []).joined(separator: ", "), job.error ?? "",
            ])
        }
        return table.text
    }

    /// What a mirror is doing at the moment; nothing for other jobs.
    static func mirror(_ job: JobInfo) -> String {
        guard let mirror = job.mirror else { return "" }
        var lines = [
            "copies \(ByteSize.text(mirror.copyingRate))/s, guests write "
                + "\(ByteSize.text(mirror.dirtyingRate))/s that the target did not have; "
                + "\(ByteSize.text(mirror.dueBytes)) to copy, \(mirror.copyMode.rawValue)"
        ]
        if mirror.outrun {
            lines.append("guests write faster than it copies: `block-job-change` makes them wait")
        }
        if mirror.resumed { lines.append("it goes on after a restart of the agent") }
        return lines.joined(separator: "\n")
    }
}
