import BlockCore
import Catalog
import Foundation
import Jobs
import Repository

/// A point and the repository that holds it.
struct FoundPoint: Sendable {
    let repository: AttachedRepository
    let summary: PointSummary

    var id: PointID { summary.id }
}

/// Finds the points that users name.
struct PointFinder: Sendable {
    let repositories: RepositoryStore

    /// All points that match, oldest first. Repositories that do not answer are an error only if
    /// one of them was asked for by name.
    func points(
        volume: String? = nil, repository name: String? = nil
    ) async throws(BlockError) -> [FoundPoint] {
        var found: [FoundPoint] = []
        if let name {
            found = try await list(repositories.repository(name))
        } else {
            for record in try await repositories.records() {
                guard let repository = try? await repositories.repository(record.name),
                    let points = try? await list(repository)
                else { continue }
                found += points
            }
        }
        if let volume {
            found = found.filter {
                $0.summary.manifest?.volume.name == volume
                    || $0.summary.manifest?.volume.uuid == volume
            }
        }
        return found.sorted { $0.id < $1.id }
    }

    /// The manifests of the groups of `points`, by id: of those that are complete, as far as their
    /// repositories answer.
    func groups(of points: [FoundPoint]) async -> [String: GroupManifest] {
        let named = points.filter { $0.summary.manifest?.group != nil }
        var found: [String: GroupManifest] = [:]
        for repository in Dictionary(grouping: named, by: \.repository.name).values {
            guard let groups = try? await repository[0].repository.repository.groups() else {
                continue
            }
            for group in groups { found[group.group.text] = group }
        }
        return found
    }

    /// The one point that `text` means: an id, a unique prefix of one, `VOL@latest`, `VOL@-N` (N
    /// before the newest), or `VOL@TIME` (the newest not after that time).
    func resolve(_ text: String) async throws(BlockError) -> FoundPoint {
        if let at = text.lastIndex(of: "@") {
            let volume = String(text[..<at])
            let when = String(text[text.index(after: at)...])
            let candidates = try await points(volume: volume)
            guard let point = try choose(when, among: candidates, text) else {
                throw BlockError(
                    .notFound, "find the point", on: text,
                    detail: "\(volume) has \(candidates.count) points, none of them matches: "
                        + "`tidemark points \(volume)` lists them")
            }
            return point
        }
        let matches = try await points().filter { $0.id.text.hasPrefix(text) }
        // A copy of one point in two repositories is the same point.
        guard Set(matches.map(\.id)).count <= 1 else {
            throw BlockError(
                .invalid, "find the point", on: text,
                detail: "\(matches.count) points begin so: give more of the id")
        }
        guard let match = matches.first, !text.isEmpty else {
            throw BlockError(
                .notFound, "find the point", on: text,
                detail: "no point begins so: `tidemark points` lists all")
        }
        return match
    }

    private func list(_ repository: AttachedRepository) async throws(BlockError) -> [FoundPoint] {
        try await repository.repository.points().map {
            FoundPoint(repository: repository, summary: $0)
        }
    }

    private func choose(
        _ when: String, among points: [FoundPoint], _ text: String
    ) throws(BlockError) -> FoundPoint? {
        if when == "latest" { return points.last }
        if when.hasPrefix("-"), let back = UInt(when.dropFirst()).flatMap(Int.init(exactly:)) {
            return back < points.count ? points[points.count - 1 - back] : nil
        }
        guard let time = Self.time(when) else {
            throw BlockError(
                .invalid, "find the point", on: text,
                detail: "after @ comes latest, -N or a time such as 2026-11-21T03:00")
        }
        return points.last { ($0.summary.manifest?.freeze.time ?? $0.id.time).date <= time }
    }

    /// A time in UTC, with or without seconds and the final Z.
    private static func time(_ text: String) -> Date? {
        var text = text.hasSuffix("Z") ? String(text.dropLast()) : text
        if !text.contains("T") { text += "T00:00" }
        if text.split(separator: ":").count == 2 { text += ":00" }
        return try? Date("\(text)Z", strategy: .iso8601)
    }
}
