/// A bitmap by the volume and its name.
package struct BitmapReference: Codable, Sendable, Equatable {
    package var node: String
    package var name: String

    package init(node: String, name: String) {
        self.node = node
        self.name = name
    }
}

/// A bitmap to merge: a name on the target's own volume, or a volume and a name.
package enum BitmapSource: Codable, Sendable, Equatable, ReflectedAlternate {
    case local(String)
    case external(BitmapReference)

    static var alternatives: [any Decodable.Type] { [String.self, BitmapReference.self] }
    static var sample: BitmapSource { .local("") }

    package init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if let name = try? container.decode(String.self) {
            self = .local(name)
        } else {
            self = .external(try container.decode(BitmapReference.self))
        }
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .local(let name): try container.encode(name)
        case .external(let reference): try container.encode(reference)
        }
    }
}

/// One dirty bitmap. The members up to `inconsistent` are QEMU's.
package struct BitmapInfo: Codable, Sendable, Equatable {
    package var name: String
    /// Dirty bytes.
    package var count: UInt64
    /// Bytes.
    package var granularity: UInt32
    package var recording: Bool
    package var busy: Bool
    package var persistent: Bool
    package var inconsistent: Bool?
    /// Why it is inconsistent.
    package var reason: String?
    /// The restore point since which it records.
    package var continuesPoint: String?

    package init(
        name: String, count: UInt64, granularity: UInt32, recording: Bool, busy: Bool,
        persistent: Bool, inconsistent: Bool? = nil, reason: String? = nil,
        continuesPoint: String? = nil
    ) {
        self.name = name
        self.count = count
        self.granularity = granularity
        self.recording = recording
        self.busy = busy
        self.persistent = persistent
        self.inconsistent = inconsistent
        self.reason = reason
        self.continuesPoint = continuesPoint
    }

    private enum CodingKeys: String, CodingKey {
        case name, count, granularity, recording, busy, persistent, inconsistent, reason
        case continuesPoint = "continues-point"
    }
}
