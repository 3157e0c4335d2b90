/// QEMU's classes of errors: what a client of the protocol may branch on.
package enum ControlErrorClass: String, Sendable, Codable {
    case generic = "GenericError"
    case commandNotFound = "CommandNotFound"
    case deviceNotActive = "DeviceNotActive"
    case deviceNotFound = "DeviceNotFound"
    case kvmMissingCapability = "KVMMissingCap"
}

/// What a program may want to know about a failure beyond QEMU's few classes: the member `reason`
/// of an error, and where the command line's exit codes come from.
package enum ControlErrorReason: String, Sendable, Codable, CaseIterable {
    /// There is no repository of that name, or none at that location.
    case noSuchRepository = "no-such-repository"
    /// Another process holds what the command needs.
    case locked
}

/// A command's failure as it travels to the client: what failed, on what, what to do next.
package struct ControlError: Error, Sendable, Equatable {
    package var errorClass: ControlErrorClass
    package var description: String
    package var reason: ControlErrorReason?

    package init(
        _ errorClass: ControlErrorClass = .generic, _ description: String,
        reason: ControlErrorReason? = nil
    ) {
        self.errorClass = errorClass
        self.description = description
        self.reason = reason
    }
}

extension ControlError: CustomStringConvertible {
    /// The error for a failure of any kind; the text of what is no control error is its own.
    package init(_ error: any Error) {
        self = error as? ControlError ?? .generic(String(describing: error))
    }

    /// An error of the general class.
    package static func generic(_ description: String) -> ControlError {
        ControlError(.generic, description)
    }

    static func wrongType(_ path: String, expected: String) -> ControlError {
        path.isEmpty
            ? generic("QMP input member 'arguments' must be an \(expected)")
            : generic("Invalid parameter type for '\(path)', expected: \(expected)")
    }

    static func refusedValue(_ path: String, _ value: String) -> ControlError {
        // QEMU names the member alone here, not the way to it.
        let name = path.split(separator: ".").last ?? ""
        return generic("Parameter '\(name)' does not accept value '\(value)'")
    }
}
