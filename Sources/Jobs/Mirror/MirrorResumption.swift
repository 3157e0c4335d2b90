import Foundation
package import Volumes

// A mirror goes on after a restart of the agent where its working bitmap says that it was: what is not
// settled in there may be missing in the target, all else is there, also after a power loss. What it
// was going to copy at first has to be in the bitmap durably for that (`isSeeded`); else it is marked
// once more.

/// What it takes to let a mirror go on.
package struct MirrorResumption: Codable, Sendable, Equatable {
    package static let kind = "mirror"

    package var target: TargetRecord
    package var options: MirrorOptions
    /// The image of the source above which everything is copied, if that is what was asked for.
    var basePath: String?
    /// Whether the target was known to read as zeroes at first.
    var wasZero: Bool
    /// Whether the working bitmap has had all that is to be copied.
    var isSeeded: Bool

    /// From what the catalog has; nil if that makes no sense.
    package init?(_ resumption: JobResumption) {
        guard resumption.kind == Self.kind,
            let found = try? JSONDecoder().decode(
                Self.self, from: Data(resumption.arguments.utf8))
        else { return nil }
        self = found
    }

    init(
        target: TargetRecord, options: MirrorOptions, basePath: String?, wasZero: Bool,
        isSeeded: Bool
    ) {
        self.target = target
        self.options = options
        self.basePath = basePath
        self.wasZero = wasZero
        self.isSeeded = isSeeded
    }

    /// As the catalog keeps it, with the working bitmap of that number.
    func record(bitmapID: Int64) -> JobResumption {
        let arguments = (try? JSONEncoder().encode(self)).map {
            String(decoding: $0, as: UTF8.self)
        }
        return JobResumption(kind: Self.kind, arguments: arguments ?? "{}", bitmapID: bitmapID)
    }

    /// The bitmap that its end settles, if there is one.
    package var settledBitmap: String? { bitmap(in: [.onSuccess, .always]) }

    /// The bitmap that a failure settles too, if there is one.
    package var bitmapSettledInAnyCase: String? { bitmap(in: [.always]) }

    private func bitmap(in modes: [MirrorBitmapMode]) -> String? {
        guard case .bitmap(let name, let mode) = options.sync, modes.contains(mode) else {
            return nil
        }
        return name
    }
}
