import Foundation
import Testing

@testable import Control

/// The built command line against an agent that a test plays.
struct ToolTests {
    private static func job(_ result: JobResult?, error: String? = nil) throws -> JobInfo {
        JobInfo(
            id: "backup-1", type: "backup", status: .concluded, currentProgress: 10,
            totalProgress: 10, error: error, result: try result.map { try JSONValue(encoding: $0) })
    }

    private static let point = JobPoint(
        id: "p1", volume: "vm1", level: "full", reason: "first", storedBytes: 1024)

    private static func state(_ test: TestServer) -> String {
        URL(fileURLWithPath: test.socketPath).deletingLastPathComponent().path
    }

    @Test func aBackupWaitsDismissesAndPrintsThePoint() async throws {
        let agent = MockAgent(
            runningPolls: 2, conclusion: try Self.job(JobResult(points: [Self.point])))
        try await TestServer.run(agent.table) { test in
            let tool = try await Tool.run(
                state: Self.state(test), ["backup", "vm1", "--repo", "main"])
            #expect(tool.status == 0)
            #expect(tool.output == "vm1 p1: full (first), 1 KiB stored\n")
            #expect(tool.errors == "")
        }
        #expect(agent.requests.all == ["backup vm1", "dismiss backup-1"])
    }

    @Test func withJSONThereIsExactlyOneDocumentWhateverHappens() async throws {
        let agent = MockAgent(
            runningPolls: 0,
            conclusion: try Self.job(
                JobResult(
                    points: [Self.point], failures: [JobFailure(subject: "vm2", error: "full")])))
        try await TestServer.run(agent.table) { test in
            let partly = try await Tool.run(
                state: Self.state(test), ["backup", "vm1", "vm2", "--repo", "main", "--json"])
            #expect(partly.status == 3)
            #expect(partly.document?["result"]?["points"]?.arrayValue?.count == 1)
            #expect(partly.errors.contains("vm2: full"))
            for (repository, status) in [("none", Int32(10)), ("held", 11)] {
                let refused = try await Tool.run(
                    state: Self.state(test), ["backup", "vm1", "--repo", repository, "--json"])
                #expect(refused.status == status)
                #expect(refused.document?["error"]?["exit-code"] == .int(Int64(status)))
                #expect(refused.errors.hasPrefix("tidemark: "))
            }
            let usage = try await Tool.run(state: Self.state(test), ["backup", "--json"])
            #expect(usage.status == 64)
            #expect(usage.document?["error"]?["exit-code"] == 64)
        }
    }

    @Test func anInterruptCancelsTheJob() async throws {
        let agent = MockAgent(
            runningPolls: nil, conclusion: try Self.job(nil, error: "job was cancelled"))
        try await TestServer.run(agent.table) { test in
            let tool = try await Tool.run(
                state: Self.state(test), ["backup", "vm1", "--repo", "main"],
                whileRunning: { pid in
                    while agent.requests.all.isEmpty {
                        try? await Task.sleep(for: .milliseconds(20))
                    }
                    try? await Task.sleep(for: .milliseconds(300))
                    kill(pid, SIGINT)
                })
            #expect(tool.status == 130)
            #expect(tool.errors.contains("job was cancelled"))
        }
        #expect(agent.requests.all == ["backup vm1", "cancel backup-1", "dismiss backup-1"])
    }

    @Test func aSecondInterruptEndsTheWaiting() async throws {
        let agent = MockAgent(
            runningPolls: 100_000, conclusion: try Self.job(nil, error: "job was cancelled"))
        try await TestServer.run(agent.table) { test in
            let tool = try await Tool.run(
                state: Self.state(test), ["backup", "vm1", "--repo", "main"],
                whileRunning: { pid in
                    while agent.requests.all.isEmpty {
                        try? await Task.sleep(for: .milliseconds(20))
                    }
                    kill(pid, SIGINT)
                    while agent.requests.all.count < 2 {
                        try? await Task.sleep(for: .milliseconds(20))
                    }
                    kill(pid, SIGINT)
                })
            #expect(tool.status == 130)
            #expect(tool.errors.contains("the job may go on"))
        }
        #expect(agent.requests.all == ["backup vm1", "cancel backup-1"])
    }

    @Test func anInterruptEndsTheWaitForAJobButNotTheJob() async throws {
        let agent = MockAgent(runningPolls: nil, conclusion: try Self.job(nil))
        try await TestServer.run(agent.table) { test in
            let tool = try await Tool.run(
                state: Self.state(test), ["job", "wait", "backup-1"],
                whileRunning: { pid in
                    while !agent.wasAsked { try? await Task.sleep(for: .milliseconds(20)) }
                    kill(pid, SIGINT)
                })
            #expect(tool.status == 130)
        }
        #expect(agent.requests.all.isEmpty)
    }

    @Test func anAgentThatGoesAwayIsAClearError() async throws {
        let agent = MockAgent(runningPolls: nil, conclusion: try Self.job(nil))
        let gone = try await TestServer.run(agent.table) { test in
            let state = Self.state(test)
            let tool = Task {
                try await Tool.run(state: state, ["backup", "vm1", "--repo", "main"])
            }
            while agent.requests.all.isEmpty { try await Task.sleep(for: .milliseconds(20)) }
            try await Task.sleep(for: .milliseconds(200))
            return tool
        }
        let tool = try await gone.value
        #expect(tool.status == 1)
        #expect(tool.errors.contains("job backup-1 is lost"))
    }

    @Test func withoutAnAgentTheToolSaysHowToStartOne() async throws {
        try await TestServer.inTemporaryFolder { folder in
            let tool = try await Tool.run(state: folder, ["volume", "list"])
            #expect(tool.status == 1)
            #expect(
                tool.errors == """
                    tidemark: no agent answers on \(folder)/control.sock: start it with \
                    `tidemark --state \(folder) agent`\n
                    """)
        }
    }

    @Test func tablesRoundAndJSONDoesNot() async throws {
        let agent = MockAgent(runningPolls: 0, conclusion: try Self.job(nil))
        try await TestServer.run(agent.table) { test in
            let text = try await Tool.run(state: Self.state(test), ["repo", "list"])
            #expect(
                text.output == """
                    REPOSITORY  POINTS   STORED  STATE      LOCATION
                    main             3  1.5 GiB  available  /r\n
                    """)
            let json = try await Tool.run(
                state: Self.state(test), ["repo", "show", "main", "--json"])
            #expect(json.document?["stored-bytes"] == 1_610_612_736)
            let missing = try await Tool.run(state: Self.state(test), ["repo", "show", "x"])
            #expect(missing.status == 10)
        }
    }

    @Test func qmpPrintsWhatTheAgentReturns() async throws {
        try await TestServer.run { test in
            let good = try await Tool.run(state: Self.state(test), ["qmp", "query-version"])
            #expect(good.document?["package"] == "tidemark")
            let bad = try await Tool.run(
                state: Self.state(test), ["qmp", "query-version", #"{"x": 1}"#])
            #expect(bad.status == 1)
            #expect(bad.errors == "tidemark: Parameter 'x' is unexpected\n")
            let broken = try await Tool.run(state: Self.state(test), ["qmp", "x", "{"])
            #expect(broken.status == 64)
        }
    }

    @Test func eventsWithJSONAreOneArray() async throws {
        let events = QMPEventHub()
        try await TestServer.run(events: events) { test in
            let tool = try await Tool.run(
                state: Self.state(test), ["events", "--json", "--count", "3"],
                whileRunning: { pid in
                    while kill(pid, 0) == 0, events.clientCount == 0 {
                        try? await Task.sleep(for: .milliseconds(10))
                    }
                    for _ in 0..<3 { events.broadcast(QMPEvent(.shutdown)) }
                })
            #expect(tool.status == 0)
            #expect(tool.document?.arrayValue?.count == 3)
        }
    }
}
