import ArgumentParser
import Foundation

/// The options that every command has, before or after its name.
struct GlobalOptions: ParsableArguments {
    @Option(
        name: .customLong("state"),
        help: ArgumentHelp(
            "The agent's state directory.",
            discussion: "Without it TIDEMARK_STATE is used, else /var/lib/tidemark.",
            valueName: "dir"),
        completion: .directory)
    var state: String?

    @Flag(name: .customLong("json"), help: "Print exactly one JSON document.")
    var json = false

    @Flag(name: [.customShort("q"), .customLong("quiet")], help: "Print no messages or progress.")
    var quiet = false

    @Flag(name: [.customShort("v"), .customLong("verbose")], help: "Say what is being done.")
    var verbose = false

    /// The state directory in use.
    var stateDirectory: String {
        let environment = ProcessInfo.processInfo.environment
        return Self.firstNonEmpty(state, environment["TIDEMARK_STATE"]) ?? "/var/lib/tidemark"
    }

    /// Where this command prints.
    var console: Console { Console(isJSON: json, isQuiet: quiet, isVerbose: verbose) }

    func validate() throws {
        if quiet && verbose { throw ValidationError("-q and -v exclude each other") }
    }

    private static func firstNonEmpty(_ candidates: String?...) -> String? {
        candidates.compactMap { $0 }.first { !$0.isEmpty }
    }
}

/// A command with the global options.
protocol GlobalOptionsHolder {
    var global: GlobalOptions { get }
}
