import Foundation
import Testing

@testable import Control

/// The `qemu.qmp` package from PyPI as a client.
struct StockClientTests {
    private static let script = """
        import asyncio, sys
        from qemu.qmp import QMPClient, ExecuteError

        async def main(path):
            client = QMPClient('test')
            await client.connect(path)
            assert client.greeting.QMP.version['qemu']['major'] >= 0
            names = [c['name'] for c in await client.execute('query-commands')]
            assert 'query-version' in names and 'volume-backup' in names, names
            started = await client.execute(
                'volume-backup', {'volumes': ['a'], 'repository': 'r'})
            assert started == {'job-id': 'j'}, started
            event = await asyncio.wait_for(client.events.get(), 10)
            assert event['event'] == 'JOB_STATUS_CHANGE', event
            assert event['data'] == {'id': 'j', 'status': 'created'}, event
            assert set(event['timestamp']) == {'seconds', 'microseconds'}, event
            for name, arguments, error_class, text in [
                ('nope', {}, 'CommandNotFound', 'The command nope has not been found'),
                ('volume-backup', {'volumes': []}, 'GenericError',
                 "Parameter 'repository' is missing"),
                ('query-version', {'x': 1}, 'GenericError', "Parameter 'x' is unexpected"),
            ]:
                try:
                    await client.execute(name, arguments)
                except ExecuteError as error:
                    assert error.error_class == error_class, error
                    assert str(error) == text, error
                else:
                    raise AssertionError(name)
            results = await asyncio.gather(*[client.execute('query-version') for _ in range(50)])
            assert len(results) == 50
            await client.disconnect()
            print('all is well')

        asyncio.run(main(sys.argv[1]))
        """

    @Test func theStockPythonClientWorks() async throws {
        let python = try #require(
            ProcessInfo.processInfo.environment["TIDEMARK_TEST_PYTHON"],
            """
            Set TIDEMARK_TEST_PYTHON to a python that has the package qemu.qmp:
            python3 -m venv DIR && DIR/bin/pip install qemu.qmp, then DIR/bin/python
            """)
        let events = QMPEventHub()
        var table = CommandTable()
        table.register(VolumeBackup.self) { _ in
            events.broadcast(
                QMPEvent(.jobStatusChange, JobStatusChange(id: "j", status: .created)))
            return StartedJob(jobID: "j")
        }
        try await TestServer.run(table, events: events) { test in
            let output = await Self.run(python, ["-c", Self.script, test.socketPath])
            #expect(output == "all is well\n")
        }
    }

    private static func run(_ program: String, _ arguments: [String]) async -> String {
        await onOwnThread {
            let process = Process()
            let pipe = Pipe()
            process.executableURL = URL(fileURLWithPath: program)
            process.arguments = arguments
            process.standardOutput = pipe
            process.standardError = pipe
            do {
                try process.run()
            } catch {
                return "cannot run \(program): \(error)"
            }
            let output = pipe.fileHandleForReading.readDataToEndOfFile()
            process.waitUntilExit()
            return String(decoding: output, as: UTF8.self)
        }
    }
}
