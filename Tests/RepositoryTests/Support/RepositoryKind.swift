import BlockCore

@testable import Repository

/// The repositories that the conformance suite is run against; a new kind is added here.
enum RepositoryKind: String, CaseIterable, Sendable {
    case directory
    case directoryWithSHA256

    /// A new repository in `folder`.
    func make(in folder: TemporaryFolder) async throws -> any BackupRepository {
        switch self {
        case .directory:
            try await DirectoryRepository.create(at: "\(folder.path)/repository")
        case .directoryWithSHA256:
            try await DirectoryRepository.create(
                at: "\(folder.path)/repository", algorithm: .sha256)
        }
    }

    /// The repository that `make` left in `folder`, opened by somebody else.
    func reopen(in folder: TemporaryFolder) async throws -> any BackupRepository {
        try await DirectoryRepository.open(at: "\(folder.path)/repository")
    }
}
