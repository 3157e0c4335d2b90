import ArgumentParser
import Control

// What the agent's own types need in order to be options of the command line.

extension ImageFormat: ExpressibleByArgument {}
extension VolumeDurability: ExpressibleByArgument {}
extension VolumeBackingMode: ExpressibleByArgument {}
extension BackupLevel: ExpressibleByArgument {}
extension BackupCompression: ExpressibleByArgument {}
extension DigestAlgorithm: ExpressibleByArgument {}
extension MirrorSyncMode: ExpressibleByArgument {}
extension BitmapSyncMode: ExpressibleByArgument {}
extension MirrorCopyMode: ExpressibleByArgument {}
extension JobPriority: ExpressibleByArgument {}

extension ArgumentHelp {
    /// Help for an option that takes a size.
    static func size(_ abstract: String, valueName: String = "size") -> ArgumentHelp {
        ArgumentHelp(
            "\(abstract) A whole number, with K, M, G or T for powers of 1024.",
            valueName: valueName)
    }
}
