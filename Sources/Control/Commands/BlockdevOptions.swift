// How a node is opened, in QEMU's form: one object, in which `driver` says which members there are
// beside the common ones. Where a node stands on another, that is named, or opened with it by an object
// of the same form.

/// A node to be opened.
package struct BlockdevOptions: Codable, Sendable, ReflectedFlatUnion {
    package var common: BlockdevCommonOptions
    package var details: BlockdevDetails

    package init(_ common: BlockdevCommonOptions, _ details: BlockdevDetails) {
        self.common = common
        self.details = details
    }

    static var tag: String { "driver" }
    static var common: any Decodable.Type { BlockdevCommonOptions.self }
    static var sample: BlockdevOptions {
        BlockdevOptions(.init(driver: .file), .file(.init(filename: "")))
    }
    static var variants: [(String, any Decodable.Type)] {
        BlockdevDriver.allCases.map { ($0.rawValue, $0.detailsType) }
    }

    package init(from decoder: any Decoder) throws {
        common = try BlockdevCommonOptions(from: decoder)
        details =
            switch common.driver {
            case .file: .file(try .init(from: decoder))
            case .raw: .raw(try .init(from: decoder))
            case .qcow2: .qcow2(try .init(from: decoder))
            case .nbd: .nbd(try .init(from: decoder))
            case .throttle: .throttle(try .init(from: decoder))
            case .copyOnRead: .copyOnRead(try .init(from: decoder))
            case .copyBeforeWrite: .copyBeforeWrite(try .init(from: decoder))
            case .snapshotAccess: .snapshotAccess(try .init(from: decoder))
            case .blkdebug: .blkdebug(try .init(from: decoder))
            }
    }

    package func encode(to encoder: any Encoder) throws {
        try common.encode(to: encoder)
        switch details {
        case .file(let options): try options.encode(to: encoder)
        case .raw(let options), .copyOnRead(let options), .snapshotAccess(let options):
            try options.encode(to: encoder)
        case .qcow2(let options): try options.encode(to: encoder)
        case .nbd(let options): try options.encode(to: encoder)
        case .throttle(let options): try options.encode(to: encoder)
        case .copyBeforeWrite(let options): try options.encode(to: encoder)
        case .blkdebug(let options): try options.encode(to: encoder)
        }
    }
}

/// What opens nodes.
package enum BlockdevDriver: String, Codable, Sendable, CaseIterable {
    case file
    case raw
    case qcow2
    case nbd
    case throttle
    case copyOnRead = "copy-on-read"
    case copyBeforeWrite = "copy-before-write"
    case snapshotAccess = "snapshot-access"
    case blkdebug

    var detailsType: any Decodable.Type {
        switch self {
        case .file: BlockdevFileOptions.self
        case .raw, .copyOnRead, .snapshotAccess: BlockdevFilterOptions.self
        case .qcow2: BlockdevQcow2Options.self
        case .nbd: BlockdevNBDOptions.self
        case .throttle: BlockdevThrottleOptions.self
        case .copyBeforeWrite: BlockdevCopyBeforeWriteOptions.self
        case .blkdebug: BlockdevFaultOptions.self
        }
    }
}

/// What every node can be told.
package struct BlockdevCommonOptions: Codable, Sendable {
    package var driver: BlockdevDriver
    /// Must be there unless another node is opened with it on top.
    package var nodeName: String?
    /// Absent: false.
    package var readOnly: Bool?
    /// Whether a file that may not be written is opened for reading. Absent: false.
    package var autoReadOnly: Bool?
    package var cache: BlockdevCacheOptions?
    /// Absent: ignore.
    package var discard: BlockdevDiscard?
    /// Absent: off.
    package var detectZeroes: BlockdevDetectZeroes?

    package init(driver: BlockdevDriver, nodeName: String? = nil, readOnly: Bool? = nil) {
        self.driver = driver
        self.nodeName = nodeName
        self.readOnly = readOnly
    }

    private enum CodingKeys: String, CodingKey {
        case driver, cache, discard
        case nodeName = "node-name"
        case readOnly = "read-only"
        case autoReadOnly = "auto-read-only"
        case detectZeroes = "detect-zeroes"
    }
}

/// How the host caches a file.
package struct BlockdevCacheOptions: Codable, Sendable {
    /// Whether its page cache is bypassed; for files and raw images. Absent: false.
    package var direct: Bool?
    /// Whether flushes are ignored; false is all that is understood.
    package var noFlush: Bool?

    private enum CodingKeys: String, CodingKey {
        case direct
        case noFlush = "no-flush"
    }
}

/// What becomes of discards.
package enum BlockdevDiscard: String, Codable, Sendable, CaseIterable {
    case ignore
    /// They give storage back.
    case unmap
}

/// What becomes of zeroes that are written as data.
package enum BlockdevDetectZeroes: String, Codable, Sendable, CaseIterable {
    case off
    case on
    /// They give storage back, if discards do.
    case unmap
}

/// What is particular to a driver.
package enum BlockdevDetails: Sendable {
    case file(BlockdevFileOptions)
    case raw(BlockdevFilterOptions)
    case qcow2(BlockdevQcow2Options)
    case nbd(BlockdevNBDOptions)
    case throttle(BlockdevThrottleOptions)
    case copyOnRead(BlockdevFilterOptions)
    case copyBeforeWrite(BlockdevCopyBeforeWriteOptions)
    case snapshotAccess(BlockdevFilterOptions)
    case blkdebug(BlockdevFaultOptions)
}

/// A node that another one stands on: the name of one, or a volume's, or how to open it.
package indirect enum BlockdevReference: Codable, Sendable, ReflectedAlternate {
    case named(String)
    case opened(BlockdevOptions)
    /// None at all, where there may be none.
    case nothing

    static var alternatives: [any Decodable.Type] { [String.self, BlockdevOptions.self] }
    static var sample: BlockdevReference { .named("") }

    package init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if container.decodeNil() {
            self = .nothing
        } else if let name = try? container.decode(String.self) {
            self = .named(name)
        } else {
            self = .opened(try container.decode(BlockdevOptions.self))
        }
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .named(let name): try container.encode(name)
        case .opened(let options): try container.encode(options)
        case .nothing: try container.encodeNil()
        }
    }
}
