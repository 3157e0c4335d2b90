import Foundation
import Logging
import Testing

@testable import Control

/// Server and client over a real socket.
struct ServerTests {
    @Test func aCommandTravelsThereAndBack() async throws {
        var table = CommandTable()
        table.register(VolumeBackup.self) { StartedJob(jobID: "job-of-\($0.volumes.joined())") }
        try await TestServer.run(table) { test in
            let client = try await QMPClient.connect(to: test.socketPath)
            let started = try await client.execute(
                VolumeBackup.self, .init(volumes: ["a", "b"], repository: "r"))
            #expect(started.jobID == "job-of-ab")
            #expect(try await client.execute(QueryVersion.self) == ControlVersion.info)
        }
    }

    @Test func anErrorKeepsClassTextAndReason() async throws {
        let error = ControlError("no repository called 'x'", reason: .noSuchRepository)
        var table = CommandTable()
        table.register(VolumeBackup.self) { _ in throw error }
        try await TestServer.run(table) { test in
            let client = try await QMPClient.connect(to: test.socketPath)
            await #expect(throws: error) {
                try await client.execute(
                    VolumeBackup.self, .init(volumes: ["a"], repository: "x"))
            }
        }
    }

    @Test func theSocketIsForItsOwnerOnlyAndGoesWithTheServer() async throws {
        let path = try await TestServer.run { test in
            var status = stat()
            #expect(lstat(test.socketPath, &status) == 0)
            #expect(status.st_mode & 0o7777 == 0o600)
            return test.socketPath
        }
        #expect(access(path, F_OK) != 0)
    }

    @Test func everyAnswerIsOneLineAndAHalfClosedClientStillGetsIt() async throws {
        try await TestServer.run { test in
            let raw = try RawConnection(to: test.socketPath)
            raw.send(#"{"execute":"qmp_capabilities","id":1}{"execute":"query-version","id":[2]}"#)
            raw.endSending()
            let text = await raw.read()
            let lines = text.components(separatedBy: "\r\n")
            try #require(lines.count == 4 && lines.last == "")
            #expect(lines[0].contains("\"QMP\""))
            #expect(lines[1] == #"{"id": 1, "return": {}}"#)
            #expect(lines[2].contains(#""id": [2]"#))
        }
    }

    @Test func aMessageThatIsTooLargeIsAnsweredAndTheConnectionClosed() async throws {
        var limits = QMPLimits()
        limits.requestBytesMax = 1000
        try await TestServer.run(limits: limits) { test in
            let raw = try RawConnection(to: test.socketPath)
            raw.send("{\"execute\": \"" + String(repeating: "x", count: 2000))
            #expect(await raw.read().contains("more than 1000 bytes"))
        }
    }

    @Test func eventsComeInOrderAndOnlyAfterNegotiation() async throws {
        try await TestServer.run { test in
            let silent = try RawConnection(to: test.socketPath)
            #expect(await silent.readLines(1).count == 1)
            let first = try await QMPClient.connect(to: test.socketPath)
            let second = try await QMPClient.connect(to: test.socketPath)
            for index in 0..<500 {
                test.server.broadcast(
                    QMPEvent(
                        .jobStatusChange, JobStatusChange(id: "\(index)", status: .running)))
            }
            for client in [first, second] {
                var index = 0
                for try await event in client.events {
                    #expect(event.name == "JOB_STATUS_CHANGE")
                    #expect(event.data?["id"] == .string("\(index)"))
                    #expect(event.seconds > 1_700_000_000)
                    index += 1
                    if index == 500 { break }
                }
                #expect(index == 500)
            }
            silent.send(#"{"execute":"nope"}"#)
            #expect(await silent.readLines(1).first?["error"]?["class"] == "CommandNotFound")
        }
    }

    @Test func aLongCommandHoldsUpOnlyItsOwnConnection() async throws {
        let (gate, open) = AsyncStream<Void>.makeStream()
        var table = CommandTable()
        table.register(Quit.self) { _ in
            for await _ in gate {}
            return Nothing()
        }
        try await TestServer.run(table) { test in
            let blocked = try await QMPClient.connect(to: test.socketPath)
            let free = try await QMPClient.connect(to: test.socketPath)
            let order = Recorder<String>()
            try await withThrowingTaskGroup { group in
                group.addTask {
                    _ = try await blocked.execute(Quit.self)
                    order.append("long")
                }
                for _ in 0..<10 { _ = try await free.execute(QueryVersion.self) }
                order.append("short")
                open.finish()
                try await group.waitForAll()
            }
            #expect(order.all == ["short", "long"])
        }
    }

    @Test func commandsOfOneConnectionRunInOrder() async throws {
        let seen = Recorder<String>()
        var table = CommandTable()
        table.register(JobDismiss.self) { job in
            try await Task.sleep(for: .milliseconds(job.id == "0" ? 50 : 1))
            seen.append(job.id)
            return Nothing()
        }
        try await TestServer.run(table) { test in
            let raw = try RawConnection(to: test.socketPath)
            raw.send(#"{"execute":"qmp_capabilities"}"#)
            for index in 0..<5 {
                raw.send(#"{"execute":"job-dismiss","arguments":{"id":"\#(index)"}}"#)
            }
            #expect(await raw.readLines(7).count == 7)
        }
        #expect(seen.all == ["0", "1", "2", "3", "4"])
    }

    @Test func aClientThatDoesNotReadIsDroppedAndTheOthersAreNot() async throws {
        var limits = QMPLimits()
        limits.outboxBytesMax = 256 << 10
        try await TestServer.run(limits: limits) { test in
            let slow = try RawConnection(to: test.socketPath)
            slow.send(#"{"execute":"qmp_capabilities"}"#)
            #expect(await slow.readLines(2).count == 2)
            let good = try await QMPClient.connect(to: test.socketPath)
            let text = String(repeating: "x", count: 8000)
            for index in 0..<1000 {
                test.server.broadcast(
                    QMPEvent(
                        .jobStatusChange, JobStatusChange(id: "\(index)\(text)", status: .ready)))
                if index % 20 == 0 { _ = try await good.execute(QueryVersion.self) }
            }
            #expect(try await good.execute(QueryVersion.self) == ControlVersion.info)
            // What was sent before the drop is there; then comes the end, not the last event.
            let received = await slow.read()
            #expect(!received.contains("\"999x") && received.utf8.count < 4 << 20)
        }
    }

    @Test func aCommandSurvivesTheClientThatAskedForIt() async throws {
        let (gate, open) = AsyncStream<Void>.makeStream()
        let (done, finished) = AsyncStream<Bool>.makeStream()
        let (begun, begin) = AsyncStream<Void>.makeStream()
        var table = CommandTable()
        table.register(Quit.self) { _ in
            begin.finish()
            for await _ in gate {}
            finished.yield(Task.isCancelled)
            finished.finish()
            return Nothing()
        }
        try await TestServer.run(table) { test in
            do {
                let raw = try RawConnection(to: test.socketPath)
                raw.send(#"{"execute":"qmp_capabilities"}{"execute":"quit"}"#)
                for await _ in begun {}
            }
            open.finish()
            var results: [Bool] = []
            for await wasCancelled in done { results.append(wasCancelled) }
            #expect(results == [false])
        }
    }

    @Test func theCommandUnderWayIsAnsweredWhenTheServerEnds() async throws {
        let (begun, begin) = AsyncStream<Void>.makeStream()
        var table = CommandTable()
        table.register(Quit.self) { _ in
            begin.finish()
            try await Task.sleep(for: .milliseconds(100))
            return Nothing()
        }
        let calls = Recorder<Task<Nothing, any Error>>()
        try await TestServer.run(table) { test in
            let client = try await QMPClient.connect(to: test.socketPath)
            calls.append(Task { try await client.execute(Quit.self) })
            for await _ in begun {}
        }
        #expect(try await calls.all.first?.value == Nothing())
    }

    @Test func clientsBeyondTheLimitAreRefused() async throws {
        var limits = QMPLimits()
        limits.connectionsMax = 1
        try await TestServer.run(limits: limits) { test in
            let first = try await QMPClient.connect(to: test.socketPath)
            await #expect(throws: QMPClientError.closed(path: test.socketPath)) {
                try await QMPClient.connect(to: test.socketPath)
            }
            #expect(try await first.execute(QueryVersion.self) == ControlVersion.info)
        }
    }

    @Test func theServerMayEndWhileClientsConnect() async throws {
        for _ in 0..<20 {
            let clients = try await TestServer.run { test in
                let clients = try (0..<20).map { _ in try RawConnection(to: test.socketPath) }
                for client in clients { client.send(#"{"execute":"qmp_capabilities"}"#) }
                return clients
            }
            for client in clients { _ = await client.read() }
        }
    }
}
