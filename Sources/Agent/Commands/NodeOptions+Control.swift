import Control
import Filters
import Nodes

extension NodeOptions {
    /// What `blockdev-add` says.
    init(_ options: BlockdevOptions) throws {
        let common = options.common
        guard common.cache?.noFlush != true else {
            throw ControlError.generic(
                "cache.no-flush is not understood: what is flushed is durable here")
        }
        let zeroDetection = common.detectZeroes.flatMap { ZeroDetection(rawValue: $0.rawValue) }
        let unmaps = common.discard == .unmap
        guard zeroDetection != .unmap || unmaps else {
            throw ControlError.generic(
                "setting detect-zeroes to unmap is not allowed without setting discard operation "
                    + "to unmap")
        }
        self.init(
            name: common.nodeName, isReadOnly: common.readOnly ?? false,
            mayBecomeReadOnly: common.autoReadOnly ?? false,
            isDirect: common.cache?.direct ?? false, unmaps: unmaps,
            zeroDetection: zeroDetection ?? .off, driver: try NodeDriver(options.details))
    }
}

extension NodeDriver {
    fileprivate init(_ details: BlockdevDetails) throws {
        switch details {
        case .file(let options): self = .file(path: try Self.path(options.filename))
        case .nbd(let options): self = .nbd(uri: options.uri)
        case .raw(let options): self = .raw(try NodeReference(options.file))
        case .qcow2(let options):
            let backing: NodeBacking =
                switch options.backing {
                case nil: .ofHeader
                case .nothing?: .nothing
                case let reference?: .node(try NodeReference(reference))
                }
            self = .qcow2(try NodeReference(options.file), backing)
        case .throttle(let options):
            self = .throttle(try NodeReference(options.file), group: options.throttleGroup)
        case .copyOnRead(let options): self = .copyOnRead(try NodeReference(options.file))
        case .copyBeforeWrite(let options):
            self = .copyBeforeWrite(
                try NodeReference(options.file), target: try NodeReference(options.target),
                bitmap: options.bitmap.map { (volume: $0.node, name: $0.name) })
        case .snapshotAccess(let options): self = .snapshotAccess(try NodeReference(options.file))
        case .blkdebug(let options):
            self = .faultInjection(try NodeReference(options.image), try FaultRules(options))
        }
    }

    private static func path(_ name: String) throws -> String {
        guard name.hasPrefix("/") else {
            throw ControlError.generic("Could not open '\(name)': give an absolute path")
        }
        return name
    }
}

extension NodeReference {
    fileprivate init(_ reference: BlockdevReference) throws {
        switch reference {
        case .named(let name): self = .existing(name)
        case .opened(let options): self = .new(try NodeOptions(options))
        case .nothing: throw ControlError.generic("A node has to stand on something here")
        }
    }
}

extension FaultRules {
    fileprivate init(_ options: BlockdevFaultOptions) throws {
        self.init(
            faults: try (options.injectError ?? []).map { try InjectedFault($0) },
            stateChanges: (options.setState ?? []).map { rule in
                FaultStateChange(
                    event: FaultEvent(rule.event), state: rule.state.flatMap { $0 == 0 ? nil : $0 },
                    newState: rule.newState)
            })
    }
}

extension InjectedFault {
    fileprivate init(_ rule: FaultInjectionRule) throws {
        guard let errno = Int32(exactly: rule.errno ?? 5), errno > 0 else {
            throw ControlError.generic("Invalid value for parameter errno")
        }
        self.init(
            event: FaultEvent(rule.event), state: rule.state.flatMap { $0 == 0 ? nil : $0 },
            errno: errno, sector: rule.sector.flatMap { UInt64(exactly: $0) },
            isOnce: rule.once ?? false)
        if let operation = rule.iotype.flatMap({ FaultOperation(rawValue: $0.rawValue) }) {
            operations = [operation]
        }
    }
}

extension FaultEvent {
    fileprivate init(_ event: FaultRuleEvent) {
        self = FaultEvent(rawValue: event.rawValue) ?? FaultEvent.none
    }
}

extension BlockdevNBDOptions {
    /// Where the export is.
    fileprivate var uri: String {
        let name = (export ?? "").addingPercentEncoding
        switch server.details {
        case .unix(let socket):
            return "nbd+unix:///\(name)?socket=\(socket.path.addingPercentEncoding)"
        case .inet(let address):
            let host = address.host.contains(":") ? "[\(address.host)]" : address.host
            return "nbd://\(host):\(address.port)/\(name)"
        }
    }
}

extension String {
    /// With what is not a letter, a digit or one of `-._~/` as a percent sign and two digits.
    fileprivate var addingPercentEncoding: String {
        utf8.map { byte in
            switch byte {
            case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, 0x2D, 0x2E, 0x2F, 0x5F, 0x7E:
                String(UnicodeScalar(byte))
            default:
                "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
            }
        }
        .joined()
    }
}

extension ThrottleLimits {
    /// What `object-add` says.
    init(_ limits: ThrottleGroupLimits) {
        func limit(_ average: UInt64?, _ burst: UInt64?, _ seconds: UInt64?) -> Limit {
            Limit(average: average ?? 0, burst: burst ?? 0, burstSeconds: seconds ?? 1)
        }
        self.init(
            limits: [
                .bytesTotal: limit(
                    limits.bpsTotal, limits.bpsTotalMax, limits.bpsTotalMaxLength),
                .bytesRead: limit(limits.bpsRead, limits.bpsReadMax, limits.bpsReadMaxLength),
                .bytesWrite: limit(limits.bpsWrite, limits.bpsWriteMax, limits.bpsWriteMaxLength),
                .operationsTotal: limit(
                    limits.iopsTotal, limits.iopsTotalMax, limits.iopsTotalMaxLength),
                .operationsRead: limit(
                    limits.iopsRead, limits.iopsReadMax, limits.iopsReadMaxLength),
                .operationsWrite: limit(
                    limits.iopsWrite, limits.iopsWriteMax, limits.iopsWriteMaxLength),
            ], operationBytes: limits.iopsSize ?? 0)
    }
}
