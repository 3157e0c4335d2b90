import Foundation
import Testing

/// Runs the program at `path` and returns what it printed; a failure if it does not end with 0.
func tool(
    _ path: String, _ arguments: String..., sourceLocation: SourceLocation = #_sourceLocation
) throws -> String {
    try tool([path] + arguments, sourceLocation: sourceLocation)
}

/// Runs the program whose path is the first of `command`; see above.
func tool(
    _ command: [String], sourceLocation: SourceLocation = #_sourceLocation
) throws -> String {
    let path = command[0]
    let process = Process()
    process.executableURL = URL(fileURLWithPath: path)
    process.arguments = Array(command[1...])
    let output = Pipe()
    process.standardOutput = output
    process.standardError = output
    try process.run()
    let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    try #require(
        process.terminationStatus == 0, "\(path): \(text)",
        sourceLocation: sourceLocation)
    return text
}
