package import BlockCore
package import Repository

/// Reads points back and compares them with the digests of their manifests.
package struct VerifyJob: Sendable {
    package var points: [(repository: AttachedRepository, id: PointID)]

    package init(points: [(repository: AttachedRepository, id: PointID)]) {
        self.points = points
    }

    /// Looks at every point even if one is bad; what is found is the result, not an error.
    package func run(_ job: Job) async throws(BlockError) -> JobResult {
        var outcomes: [VerifyOutcome] = []
        for point in points {
            try job.checkCancelled()
            let before = job.progress.currentBytes
            let passed = Counter()
            let report = try await point.repository.repository.verify(point.id, subset: .all) {
                (doneBytes, totalBytes) in
                job.setProgress(before + doneBytes, of: before + totalBytes)
                // What the job was given up for, the verifier sees as the end of its task.
                try? await job.admit(passed.raise(to: doneBytes))
            }
            outcomes.append(
                VerifyOutcome(
                    pointID: point.id.text, checkedBytes: report.checkedBytes,
                    badRanges: report.badRanges, problems: report.problems.map(\.description)))
        }
        return .verify(outcomes)
    }
}
