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
}
