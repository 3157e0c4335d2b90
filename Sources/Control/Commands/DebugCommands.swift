#if DEBUG
    /// Retires at once what is not in use: for tests, which cannot wait until it is cold. Release
    /// builds do not have it.
    package enum DebugRetireRegions: ControlCommand {
        package typealias Arguments = Nothing
        package typealias Result = Nothing

        package static let name = "x-debug-retire-regions"
        package static let summary = "take all regions at rest out of the activity logs"
    }
#endif
