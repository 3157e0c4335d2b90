import Control

/// Repositories for people.
enum RepositoryText {
    /// One line per repository.
    static func table(_ repositories: [RepositoryInfo]) -> String {
        var table = TextTable([
            .text("REPOSITORY"), .number("POINTS"), .number("STORED"), .text("STATE"),
            .text("LOCATION"),
        ])
        for repository in repositories {
            table.append([
                repository.name, "\(repository.points)", ByteSize.text(repository.storedBytes),
                repository.available ? "available" : "unreachable", repository.location,
            ])
        }
        return table.text
    }
}
