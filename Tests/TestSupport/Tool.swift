import Glibc

/// What a program that ran to its end left behind.
package struct ToolResult: Sendable {
    /// The exit status; minus the signal's number where one ended it.
    package let status: Int32
    package let output: String
    package let errors: String
}

/// Runs the programs that serve as oracles, such as `qemu-img`.
package enum Tool {
    /// Why a program gave no result.
    package struct Failure: Error, CustomStringConvertible {
        package let description: String

        package init(description: String) { self.description = description }
    }

    /// Runs `arguments`, the first being the program, which is looked up in PATH, and waits.
    package static func run(_ arguments: [String]) throws -> ToolResult {
        let directory = try TemporaryDirectory()
        let output = directory.path("output")
        let errors = directory.path("errors")
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 1, output, O_WRONLY | O_CREAT, 0o600)
        posix_spawn_file_actions_addopen(&actions, 2, errors, O_WRONLY | O_CREAT, 0o600)

        let pointers = arguments.map { strdup($0) } + [nil]
        defer { for pointer in pointers { free(pointer) } }
        var process = pid_t()
        let failed = posix_spawnp(&process, arguments[0], &actions, nil, pointers, environ)
        guard failed == 0 else {
            throw Failure(
                description: "cannot run \(arguments[0]): \(String(cString: strerror(failed)))")
        }
        var status: Int32 = 0
        while waitpid(process, &status, 0) < 0 && errno == EINTR {}
        let signal = status & 0x7F
        return ToolResult(
            status: signal != 0 ? -signal : (status >> 8) & 0xFF,
            output: try text(of: output), errors: try text(of: errors))
    }

    /// Runs `arguments` and throws unless the status is 0; returns what was printed.
    @discardableResult
    package static func check(_ arguments: [String]) throws -> String {
        let result = try run(arguments)
        guard result.status == 0 else {
            throw Failure(
                description: "\(arguments.joined(separator: " ")): status \(result.status)\n"
                    + result.output + result.errors)
        }
        return result.output
    }

    private static func text(of path: String) throws -> String {
        guard let file = fopen(path, "r") else {
            throw Failure(description: "cannot open \(path)")
        }
        defer { fclose(file) }
        var bytes: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = fread(&piece, 1, piece.count, file)
            guard count > 0 else { break }
            bytes += piece[..<count]
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
