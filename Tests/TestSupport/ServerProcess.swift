import BlockCore
import Glibc

/// A program that serves on a unix socket, for as long as this object lives.
package final class ServerProcess: Sendable {
    private let process: pid_t
    private let isRunning = HostMutex(true)

    /// Runs `arguments`, the first being the program, and waits until `socket` is there.
    package init(_ arguments: [String], socket: String) throws {
        unlink(socket)
        let log = socket + ".log"
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 1, log, O_WRONLY | O_CREAT | O_APPEND, 0o600)
        posix_spawn_file_actions_adddup2(&actions, 1, 2)
        let pointers = arguments.map { strdup($0) } + [nil]
        defer { for pointer in pointers { free(pointer) } }
        var process = pid_t()
        let failed = posix_spawnp(&process, arguments[0], &actions, nil, pointers, environ)
        guard failed == 0 else {
            throw Tool.Failure(
                description: "cannot run \(arguments[0]): \(String(cString: strerror(failed)))")
        }
        self.process = process
        for _ in 0..<1000 {
            if access(socket, F_OK) == 0 { return }
            usleep(10_000)
        }
        let said = (try? readFile(log)).map { String(decoding: $0, as: UTF8.self) } ?? ""
        throw Tool.Failure(description: "\(arguments[0]) does not serve: \(said)")
    }

    deinit { stop() }

    /// Kills the program and waits for its end. Not by SIGTERM, which qemu-nbd loses while starting.
    package func stop() {
        isRunning.withLock { isRunning in
            guard isRunning else { return }
            isRunning = false
            kill(process, SIGKILL)
            var status: Int32 = 0
            while waitpid(process, &status, 0) < 0 && errno == EINTR {}
        }
    }

    /// Holds the program up, or lets it go on.
    package func signal(_ number: Int32) {
        isRunning.withLock { if $0 { kill(process, number) } }
    }
}
