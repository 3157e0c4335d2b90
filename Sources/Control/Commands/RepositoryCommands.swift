/// Makes an empty repository and adds it.
package enum RepositoryInit: ControlCommand {
    package typealias Result = Nothing

    package static let name = "repository-init"
    package static let summary = "create a repository and make it known"

    package struct Arguments: Codable, Sendable {
        package var name: String
        package var location: String
        /// Absent: xxh3-128.
        package var digestAlgorithm: DigestAlgorithm?

        package init(name: String, location: String, digestAlgorithm: DigestAlgorithm? = nil) {
            self.name = name
            self.location = location
            self.digestAlgorithm = digestAlgorithm
        }

        private enum CodingKeys: String, CodingKey {
            case name, location
            case digestAlgorithm = "digest-algorithm"
        }
    }
}

/// Makes a repository known that exists.
package enum RepositoryAdd: ControlCommand {
    package typealias Result = Nothing

    package static let name = "repository-add"
    package static let summary = "make an existing repository known"

    package struct Arguments: Codable, Sendable {
        package var name: String
        package var location: String

        package init(name: String, location: String) {
            self.name = name
            self.location = location
        }
    }
}

/// Describes the repositories.
package enum QueryRepositories: ControlCommand {
    package typealias Arguments = Nothing
    package typealias Result = [RepositoryInfo]

    package static let name = "query-repositories"
    package static let summary = "the repositories that the agent knows"
}

/// What the blocks of a repository's points are digested with.
package enum DigestAlgorithm: String, Codable, Sendable, CaseIterable {
    case xxh3 = "xxh3-128"
    case sha256 = "sha-256"
}

/// One repository.
package struct RepositoryInfo: Codable, Sendable, Equatable {
    package var name: String
    package var uuid: String
    package var location: String
    /// How many restore points it holds.
    package var points: Int
    /// What they occupy, in bytes.
    package var storedBytes: UInt64
    /// Whether it can be reached now; if not, the other figures are the last known.
    package var available: Bool

    package init(
        name: String, uuid: String, location: String, points: Int, storedBytes: UInt64,
        available: Bool
    ) {
        self.name = name
        self.uuid = uuid
        self.location = location
        self.points = points
        self.storedBytes = storedBytes
        self.available = available
    }

    private enum CodingKeys: String, CodingKey {
        case name, uuid, location, points, available
        case storedBytes = "stored-bytes"
    }
}
