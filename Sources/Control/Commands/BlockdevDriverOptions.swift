/// What a `file` node needs.
package struct BlockdevFileOptions: Codable, Sendable {
    package var filename: String

    package init(filename: String) { self.filename = filename }
}

/// What a node needs that stands on one other, and no more.
package struct BlockdevFilterOptions: Codable, Sendable {
    package var file: BlockdevReference

    package init(file: BlockdevReference) { self.file = file }
}

/// What a `qcow2` node needs.
package struct BlockdevQcow2Options: Codable, Sendable {
    package var file: BlockdevReference
    /// Absent: what the image's header names; null: nothing.
    package var backing: BlockdevReference?

    package init(file: BlockdevReference, backing: BlockdevReference? = nil) {
        self.file = file
        self.backing = backing
    }

    private enum CodingKeys: CodingKey {
        case file, backing
    }

    package init(from decoder: any Decoder) throws {
        let members = try decoder.container(keyedBy: CodingKeys.self)
        file = try members.decode(BlockdevReference.self, forKey: .file)
        // Null says something, other than with most optional members.
        if members.contains(.backing) {
            backing = try members.decode(BlockdevReference.self, forKey: .backing)
        }
    }
}

/// What an `nbd` node needs.
package struct BlockdevNBDOptions: Codable, Sendable {
    package var server: NBDServerAddress
    /// Absent: the export without a name.
    package var export: String?

    package init(server: NBDServerAddress, export: String? = nil) {
        self.server = server
        self.export = export
    }
}

/// What a `throttle` node needs.
package struct BlockdevThrottleOptions: Codable, Sendable {
    /// A group that was made with `object-add`.
    package var throttleGroup: String
    package var file: BlockdevReference

    package init(throttleGroup: String, file: BlockdevReference) {
        self.throttleGroup = throttleGroup
        self.file = file
    }

    private enum CodingKeys: String, CodingKey {
        case file
        case throttleGroup = "throttle-group"
    }
}

/// What a `copy-before-write` node needs.
package struct BlockdevCopyBeforeWriteOptions: Codable, Sendable {
    package var file: BlockdevReference
    /// Where old content goes.
    package var target: BlockdevReference
    /// A bitmap of a volume; only what it has marked is kept. Absent: everything is.
    package var bitmap: BitmapReference?
    /// Absent: break-snapshot, where QEMU has break-guest-write.
    package var onCBWError: OnCBWError?

    package init(file: BlockdevReference, target: BlockdevReference) {
        self.file = file
        self.target = target
    }

    private enum CodingKeys: String, CodingKey {
        case file, target, bitmap
        case onCBWError = "on-cbw-error"
    }
}

/// What becomes of a write whose old content cannot be kept.
package enum OnCBWError: String, Codable, Sendable, CaseIterable {
    /// It goes on, and what was kept is worth nothing any more.
    case breakSnapshot = "break-snapshot"
}

/// What a `blkdebug` node needs.
package struct BlockdevFaultOptions: Codable, Sendable {
    package var image: BlockdevReference
    package var injectError: [FaultInjectionRule]?
    package var setState: [FaultStateRule]?

    package init(image: BlockdevReference) { self.image = image }

    private enum CodingKeys: String, CodingKey {
        case image
        case injectError = "inject-error"
        case setState = "set-state"
    }
}

/// Has requests fail once its event has come.
package struct FaultInjectionRule: Codable, Sendable {
    package var event: FaultRuleEvent
    /// The state in which the event counts. Absent or 0: any.
    package var state: UInt64?
    /// Absent: all but block-status.
    package var iotype: FaultRuleOperation?
    /// The system's number. Absent: 5, EIO.
    package var errno: Int64?
    /// Of 512 bytes: what does not touch it goes well. Absent or -1: everything fails.
    package var sector: Int64?
    /// Whether it is over with the first request that fails. Absent: false.
    package var once: Bool?
    /// Makes no difference here.
    package var immediately: Bool?
}

/// Changes the state once its event has come. The first state is 1.
package struct FaultStateRule: Codable, Sendable {
    package var event: FaultRuleEvent
    /// The state in which the event counts. Absent or 0: any.
    package var state: UInt64?
    package var newState: UInt64

    private enum CodingKeys: String, CodingKey {
        case event, state
        case newState = "new_state"
    }
}

/// When a rule is looked at.
package enum FaultRuleEvent: String, Codable, Sendable, CaseIterable {
    /// When the node is opened.
    case none
    case readAIO = "read_aio"
    case writeAIO = "write_aio"
    case zeroWrite = "pwritev_zero"
    case flushToOS = "flush_to_os"
    case flushToDisk = "flush_to_disk"
}

/// What fails.
package enum FaultRuleOperation: String, Codable, Sendable, CaseIterable {
    case read
    case write
    case writeZeroes = "write-zeroes"
    case discard
    case flush
    case blockStatus = "block-status"
}

/// Where an NBD server is.
package struct NBDServerAddress: Codable, Sendable, ReflectedFlatUnion {
    /// The member that says of which kind the address is.
    package struct Common: Codable, Sendable {
        package var type: SocketAddressKind
    }

    /// An address of one of the kinds.
    package enum Details: Sendable {
        case unix(SocketAddress.UnixPath)
        case inet(SocketAddress.HostAndPort)
    }

    package var details: Details

    package init(_ details: Details) { self.details = details }

    static var tag: String { "type" }
    static var common: any Decodable.Type { Common.self }
    static var sample: NBDServerAddress { NBDServerAddress(.unix(.init(path: ""))) }
    static var variants: [(String, any Decodable.Type)] {
        SocketAddressKind.allCases.map { ($0.rawValue, $0.dataType) }
    }

    package init(from decoder: any Decoder) throws {
        details =
            switch try Common(from: decoder).type {
            case .unix: .unix(try .init(from: decoder))
            case .inet: .inet(try .init(from: decoder))
            }
    }

    package func encode(to encoder: any Encoder) throws {
        switch details {
        case .unix(let path):
            try Common(type: .unix).encode(to: encoder)
            try path.encode(to: encoder)
        case .inet(let address):
            try Common(type: .inet).encode(to: encoder)
            try address.encode(to: encoder)
        }
    }
}
