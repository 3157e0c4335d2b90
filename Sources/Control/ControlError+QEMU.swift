// Errors in QEMU's words, for the situations that QEMU has too: programs match on these texts.

extension ControlError {
    /// There is no volume or node of that name.
    package static func noSuchNode(_ name: String) -> ControlError {
        generic("Cannot find device='\(name)' nor node-name='\(name)'")
    }

    /// There is no node of that name, where no device is meant.
    package static func noSuchNode(named name: String) -> ControlError {
        generic("Cannot find device='' nor node-name='\(name)'")
    }

    /// The same where both can be asked for.
    package static func noSuchNode(device: String?, nodeName: String?) -> ControlError {
        generic("Cannot find device='\(device ?? "")' nor node-name='\(nodeName ?? "")'")
    }

    /// The same, said by the commands on bitmaps that are there already.
    package static func noSuchBitmapNode(_ name: String) -> ControlError {
        generic("Node '\(name)' not found")
    }

    /// There is no bitmap of that name on the volume.
    package static func noSuchBitmap(_ name: String) -> ControlError {
        generic("Dirty bitmap '\(name)' not found")
    }

    /// The volume has a bitmap of that name already.
    package static func bitmapExists(_ name: String) -> ControlError {
        generic("Bitmap already exists: \(name)")
    }

    /// A job or an export holds the bitmap.
    package static func bitmapBusy(_ name: String) -> ControlError {
        generic("Bitmap '\(name)' is currently in use by another operation and cannot be used")
    }

    /// The bitmap may miss writes; it can only be removed.
    package static func bitmapInconsistent(_ name: String) -> ControlError {
        generic(
            "Bitmap '\(name)' is inconsistent and cannot be used: "
                + "try block-dirty-bitmap-remove to delete it")
    }

    /// The granularity asked for is not possible.
    package static var badGranularity: ControlError {
        generic("Granularity must be power of 2 and at least 512")
    }

    /// There is no export of that id.
    package static func noSuchExport(_ id: String) -> ControlError {
        generic("Export '\(id)' is not found")
    }

    /// An export of that id exists already.
    package static func exportExists(_ id: String) -> ControlError {
        generic("Block export id '\(id)' is already in use")
    }

    /// Clients use the export.
    package static func exportInUse(_ id: String, clients: Int) -> ControlError {
        generic(
            "export '\(id)' still in use by \(clients) NBD clients: disconnect them first, or use "
                + "mode='hard'")
    }

    /// There is no job of that id, said by the `block-job-*` commands; what else jobs refuse, they
    /// say themselves.
    package static func noSuchBlockJob(_ id: String) -> ControlError {
        ControlError(.deviceNotActive, "Block job '\(id)' not found")
    }

    /// A transaction was told to fail.
    package static var transactionAborted: ControlError {
        generic("Transaction aborted using Abort action")
    }

    /// Only jobs can end together.
    package static func notGroupable(_ action: String) -> ControlError {
        generic(
            "Action '\(action)' does not support Transaction property completion-mode = grouped")
    }

    /// A speed as a job takes it; throws if it is below zero.
    package static func checked(speed: Int64?) throws(ControlError) -> UInt64 {
        guard let speed = UInt64(exactly: speed ?? 0) else { throw negative("speed") }
        return speed
    }

    /// A number is below zero.
    package static func negative(_ parameter: String) -> ControlError {
        generic("Parameter '\(parameter)' expects a non-negative value")
    }
}
