import Testing

@testable import Control
@testable import tidemark

/// How failures become exit codes.
struct ExitStatusTests {
    @Test func theCodesAreThoseOfTheManual() {
        #expect(ExitStatus.allCases.map(\.rawValue) == [0, 1, 3, 10, 11, 64, 130])
    }

    @Test func reasonsOfTheAgentHaveTheirCodes() {
        #expect(ExitStatus(ControlError("x", reason: .noSuchRepository)) == .noSuchRepository)
        #expect(ExitStatus(ControlError("x", reason: .locked)) == .locked)
        #expect(ExitStatus(ControlError.generic("x")) == .failed)
        #expect(ExitStatus(QMPClientError.closed(path: "x")) == .failed)
        #expect(ExitStatus(CancellationError()) == .interrupted)
    }

    private static func report(_ result: JobResult?, error: String? = nil) throws -> JobReport {
        JobReport(
            JobInfo(
                id: "j", type: "backup", status: .concluded, currentProgress: 1,
                totalProgress: 1, error: error, errorReason: error.map { _ in .locked },
                result: try result.map { try JSONValue(encoding: $0) }))
    }

    private static let point = JobPoint(
        id: "p1", volume: "vm1", level: "incremental", reason: "bitmap", storedBytes: 12 << 20,
        dirtyBytes: 14 << 20, durationSeconds: 0.8, freezeDurationSeconds: 0.003)

    @Test func aJobThatDidAllIsDone() throws {
        let report = try Self.report(JobResult(points: [Self.point]))
        #expect(report.status == .done && report.failure == nil)
        #expect(
            report.text
                == "vm1 p1: incremental (bitmap), 12 MiB stored, 14 MiB dirty, 0.8 s, frozen 3 ms")
        #expect(try Self.report(nil).status == .done)
    }

    @Test func aJobThatDidSomeIsPartlyDone() throws {
        let failures = [JobFailure(subject: "vm2", error: "no space")]
        let report = try Self.report(JobResult(points: [Self.point], failures: failures))
        #expect(report.status == .partlyDone)
        #expect(report.failures == ["vm2: no space"])
        #expect(
            try Self.report(JobResult(points: [Self.point]), error: "x").status == .partlyDone)
    }

    @Test func aJobThatDidNothingFailedForItsReason() throws {
        #expect(try Self.report(nil, error: "x").status == .locked)
        let failures = [JobFailure(subject: "vm2", error: "no space")]
        #expect(try Self.report(JobResult(failures: failures)).status == .failed)
    }
}
