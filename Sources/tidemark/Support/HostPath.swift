import Foundation

/// File names on their way to the agent, which has another working directory.
enum HostPath {
    /// `text` as an absolute path; unchanged if it is a URI or like `rbd:POOL/IMAGE`. A file
    /// whose name looks like that can be written `./NAME`.
    static func absolute(
        _ text: String, from directory: String = FileManager.default.currentDirectoryPath
    ) -> String {
        guard !text.isEmpty, !text.hasPrefix("/"), !hasScheme(text) else { return text }
        var name = Substring(text)
        while name.hasPrefix("./") { name = name.dropFirst(2) }
        if name == "." || name.isEmpty { return directory }
        return directory.hasSuffix("/") ? directory + name : "\(directory)/\(name)"
    }

    private static func hasScheme(_ text: String) -> Bool {
        guard let colon = text.firstIndex(of: ":") else { return false }
        let scheme = text[..<colon]
        guard let first = scheme.first, first.isASCII, first.isLetter else { return false }
        return scheme.allSatisfy {
            $0.isASCII && ($0.isLetter || $0.isNumber || "+.-".contains($0))
        }
    }
}
