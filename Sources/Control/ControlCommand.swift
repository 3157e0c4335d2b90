/// A command of the control socket: its name, and what goes in and out.
///
/// The agent registers a handler for each in a `CommandTable`, the client executes by the type:
/// neither side spells a wire name twice. Wire names are in kebab case, as QEMU's are.
package protocol ControlCommand: Sendable {
    /// The `arguments` object. Optional members may be absent; unknown ones are refused.
    associatedtype Arguments: Codable & Sendable
    /// The `return` value.
    associatedtype Result: Codable & Sendable

    /// What `execute` calls it.
    static var name: String { get }
    /// One line on what it does.
    static var summary: String { get }
}

/// The arguments of a command that takes none, and the result of one that returns none: `{}`.
package struct Nothing: Codable, Sendable, Equatable {
    private enum CodingKeys: CodingKey {}

    package init() {}

    package init(from decoder: any Decoder) throws {
        _ = try decoder.container(keyedBy: CodingKeys.self)
    }

    package func encode(to encoder: any Encoder) throws {
        _ = encoder.container(keyedBy: CodingKeys.self)
    }
}
