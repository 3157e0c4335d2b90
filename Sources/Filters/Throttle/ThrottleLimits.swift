package import BlockCore

/// What a throttle group allows, in the terms of QEMU's.
package struct ThrottleLimits: Sendable, Equatable {
    /// What is limited.
    package enum Kind: String, Sendable, CaseIterable {
        case bytesTotal = "bps-total"
        case bytesRead = "bps-read"
        case bytesWrite = "bps-write"
        case operationsTotal = "iops-total"
        case operationsRead = "iops-read"
        case operationsWrite = "iops-write"

        var isOfBytes: Bool {
            switch self {
            case .bytesTotal, .bytesRead, .bytesWrite: true
            case .operationsTotal, .operationsRead, .operationsWrite: false
            }
        }

        func concerns(isWrite: Bool) -> Bool {
            switch self {
            case .bytesTotal, .operationsTotal: true
            case .bytesRead, .operationsRead: !isWrite
            case .bytesWrite, .operationsWrite: isWrite
            }
        }
    }

    /// One limit, in bytes or requests a second.
    package struct Limit: Sendable, Equatable {
        /// 0 is no limit.
        package var average: UInt64
        /// What may come in a second of a burst; 0 for none to speak of.
        package var burst: UInt64
        /// For how long it may.
        package var burstSeconds: UInt64

        package init(average: UInt64 = 0, burst: UInt64 = 0, burstSeconds: UInt64 = 1) {
            self.average = average
            self.burst = burst
            self.burstSeconds = burstSeconds
        }
    }

    package var limits: [Kind: Limit]
    /// A request of more bytes counts as several; 0 for one whatever its length.
    package var operationBytes: UInt64

    package init(limits: [Kind: Limit] = [:], operationBytes: UInt64 = 0) {
        self.limits = limits
        self.operationBytes = operationBytes
    }

    /// How much of a limit a request takes.
    func units(of bytes: UInt64, _ kind: Kind) -> Double {
        if kind.isOfBytes { return Double(bytes) }
        guard operationBytes > 0, bytes > operationBytes else { return 1 }
        return Double(bytes) / Double(operationBytes)
    }

    private static let valueMax: UInt64 = 1_000_000_000_000_000

    /// Throws what QEMU says unless the limits make sense together.
    package func check() throws(BlockError) {
        func has(_ kinds: Kind..., of value: KeyPath<Limit, UInt64>) -> Bool {
            kinds.contains { (limits[$0]?[keyPath: value] ?? 0) > 0 }
        }
        for value in [\Limit.average, \Limit.burst] {
            let isDouble =
                has(.bytesTotal, of: value) && has(.bytesRead, .bytesWrite, of: value)
                || has(.operationsTotal, of: value)
                    && has(.operationsRead, .operationsWrite, of: value)
            guard !isDouble else {
                throw refusal(
                    "bps/iops/max total values and read/write values cannot be used at the same "
                        + "time")
            }
        }
        if operationBytes > 0,
            !has(.operationsTotal, .operationsRead, .operationsWrite, of: \.average)
        {
            throw refusal("iops size requires an iops value to be set")
        }
        for limit in Kind.allCases.compactMap({ limits[$0] }) { try check(limit) }
    }

    private func check(_ limit: Limit) throws(BlockError) {
        guard limit.average <= Self.valueMax, limit.burst <= Self.valueMax else {
            throw refusal("bps/iops/max values must be within [0, \(Self.valueMax)]")
        }
        guard limit.burstSeconds > 0 else { throw refusal("the burst length cannot be 0") }
        guard limit.burstSeconds == 1 || limit.burst > 0 else {
            throw refusal("burst length set without burst rate")
        }
        guard limit.burst == 0 || limit.burstSeconds <= Self.valueMax / limit.burst else {
            throw refusal("burst length too high for this burst rate")
        }
        guard limit.burst == 0 || limit.average > 0 else {
            throw refusal("bps_max/iops_max require corresponding bps/iops values")
        }
        guard limit.burst == 0 || limit.burst >= limit.average else {
            throw refusal("bps_max/iops_max cannot be lower than bps/iops")
        }
    }

    private func refusal(_ detail: String) -> BlockError {
        BlockError(.invalid, "throttle", on: "limits", detail: detail)
    }
}
