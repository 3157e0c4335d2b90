/// The commands that an agent answers, each with its handler. What the agent says about its own
/// interface (`query-commands`, `query-qmp-schema`) is read off this table.
package struct CommandTable: Sendable {
    private struct Entry: Sendable {
        let summary: String
        let describe: @Sendable (SchemaReflector) throws -> JSONValue
        let run: @Sendable (CommandTable, JSONValue) async throws -> JSONValue
    }

    private var entries: [String: Entry] = [:]

    /// A table that answers the questions about itself, and nothing else yet.
    package init() {
        add(QueryVersion.self) { _, _ in ControlVersion.info }
        add(QueryCommands.self) { table, _ in
            table.names.map { CommandName(name: $0) }
        }
        add(QuerySchema.self) { table, _ in try table.schema() }
    }

    /// Adds `command`, or replaces its handler. A handler may throw anything; `ControlError`
    /// says more to the client. It is run once per request, never cancelled when its client goes.
    package mutating func register<Command: ControlCommand>(
        _ command: Command.Type,
        handler: @escaping @Sendable (Command.Arguments) async throws -> Command.Result
    ) {
        add(command) { _, arguments in try await handler(arguments) }
    }

    /// The names of all commands, sorted.
    package var names: [String] { entries.keys.sorted() }

    /// The one-line summary of the command called `name`.
    package func summary(of name: String) -> String? { entries[name]?.summary }

    /// Runs the command called `name`.
    package func execute(
        _ name: String, arguments: JSONValue
    ) async throws(ControlError) -> JSONValue {
        guard let entry = entries[name] else {
            throw ControlError(.commandNotFound, "The command \(name) has not been found")
        }
        do {
            return try await entry.run(self, arguments)
        } catch {
            throw ControlError(error)
        }
    }

    /// The interface in the form of QEMU's `query-qmp-schema`, except that types have the names
    /// that the sources give them instead of numbers.
    package func schema() throws -> [JSONValue] {
        let reflector = SchemaReflector()
        let commands = try names.compactMap { try entries[$0]?.describe(reflector) }
        let events = try ControlEvent.allCases.map { try reflector.describe($0) }
        return commands + events + reflector.types
    }

    private mutating func add<Command: ControlCommand>(
        _ command: Command.Type,
        handler:
            @escaping @Sendable (CommandTable, Command.Arguments) async throws ->
            Command.Result
    ) {
        entries[Command.name] = Entry(
            summary: Command.summary,
            describe: { try $0.describe(Command.self) },
            run: { table, arguments in
                let arguments = try JSONValueDecoder.decode(
                    Command.Arguments.self, from: arguments, refusesUnknownMembers: true)
                return try JSONValue(encoding: await handler(table, arguments))
            })
    }
}
