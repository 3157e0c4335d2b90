import BlockCore

/// The names of folders and files in a directory repository: how they are made, and which of them
/// are ours.
///
///     VOLUME.8HEX/POINT.json            manifest: it makes the point
///     VOLUME.8HEX/POINT.qcow2           image
///     VOLUME.8HEX/POINT.digests         digest table
///     VOLUME.8HEX/POINT.8HEX.KIND.tmp   of a writer at work; KIND: writer, qcow2, digests
enum VolumeFolder {
    private static let nameBytesMax = 64

    /// The folder for a volume: its name as far as that is fit for a file name, and the beginning
    /// of its uuid.
    static func name(volume: String, uuid: String) -> String {
        "\(sanitized(volume)).\(uuid.prefix(8))"
    }

    /// The folder for a volume whose usual one belongs to another volume.
    static func fallbackName(volume: String, uuid: String) -> String {
        "\(sanitized(volume)).\(uuid)"
    }

    /// Whether a folder of this name can hold points.
    static func isOurs(_ name: String) -> Bool {
        guard let dot = name.lastIndex(of: "."), dot != name.startIndex else { return false }
        let suffix = name[name.index(after: dot)...]
        return isHexadecimal(suffix, count: 8) || isUUID(String(suffix))
    }

    /// Whether `text` is a uuid in lower case.
    static func isUUID(_ text: String) -> Bool {
        let parts = text.split(separator: "-", omittingEmptySubsequences: false)
        let lengths = [8, 4, 4, 4, 12]
        return parts.count == lengths.count
            && zip(parts, lengths).allSatisfy { isHexadecimal($0, count: $1) }
    }

    private static func isHexadecimal(_ text: some StringProtocol, count: Int) -> Bool {
        text.utf8.count == count && text.utf8.allSatisfy(Hexadecimal.isDigit)
    }

    private static func sanitized(_ volume: String) -> String {
        let kept = volume.utf8.prefix(nameBytesMax).map { byte -> Character in
            let character = Character(UnicodeScalar(byte))
            let isFit =
                byte < 128
                && (character.isLetter || character.isNumber || "-_.".contains(character))
            return isFit ? character : "_"
        }
        let name = String(kept)
        if name.isEmpty { return "volume" }
        return name.hasPrefix(".") ? "_" + name.dropFirst() : name
    }
}

/// A file name of a directory repository, understood.
enum PointFileName: Equatable {
    case manifest(PointID)
    case image(PointID)
    case digests(PointID)
    /// Of a writer at work, or left by one.
    case temporary(PointID)
    /// The lock of a writer; `temporary` as well in its nature, but removed last.
    case writerLock(PointID)

    /// Nil for what is not ours.
    init?(_ name: String) {
        let parts = name.split(separator: ".", omittingEmptySubsequences: false).map(String.init)
        // An id has one dot itself.
        guard parts.count >= 3, let id = PointID(parts[0] + "." + parts[1]) else { return nil }
        switch parts.dropFirst(2) {
        case ["json"]: self = .manifest(id)
        case ["qcow2"]: self = .image(id)
        case ["digests"]: self = .digests(id)
        case let rest where rest.count >= 3 && rest.last == "tmp":
            guard let name = Self.temporary(id, Array(rest.dropLast())) else { return nil }
            self = name
        default: return nil
        }
    }

    private static func temporary(_ id: PointID, _ parts: [String]) -> PointFileName? {
        func isNumber(_ text: String) -> Bool {
            !text.isEmpty && text.utf8.allSatisfy { (48...57).contains($0) }
        }
        // The manifest's comes from `HostDirectory.replaceFile`: POINT.json.PID.NUMBER.tmp.
        if parts.count == 3, parts[0] == "json", isNumber(parts[1]), isNumber(parts[2]) {
            return .temporary(id)
        }
        guard parts.count == 2, parts[0].utf8.count == 8,
            parts[0].utf8.allSatisfy(Hexadecimal.isDigit)
        else { return nil }
        switch parts[1] {
        case "writer": return .writerLock(id)
        case "qcow2", "digests": return .temporary(id)
        default: return nil
        }
    }

    var point: PointID {
        switch self {
        case .manifest(let id), .image(let id), .digests(let id), .temporary(let id),
            .writerLock(let id):
            id
        }
    }
}
