import BlockCore
package import Catalog
import DriverQcow2
import DriverRaw

/// What a new volume shall be.
package struct VolumeSpecification: Sendable {
    package var name: String
    package var lengthBytes: UInt64
    package var format: ImageFormat
    /// Where the image goes; in the state directory if nil.
    package var path: String?
    /// The image that the volume starts from, if any.
    package var backing: (path: String, format: ImageFormat)?
    /// Whether the content of a raw image bypasses the page cache.
    package var isDirect: Bool
    /// What its bitmaps have to survive.
    package var durability: Durability

    package init(
        name: String, lengthBytes: UInt64, format: ImageFormat, path: String? = nil,
        backing: (path: String, format: ImageFormat)? = nil, isDirect: Bool = false,
        durability: Durability = .power
    ) {
        self.name = name
        self.lengthBytes = lengthBytes
        self.format = format
        self.path = path
        self.backing = backing
        self.isDirect = isDirect
        self.durability = durability
    }
}

extension VolumeSpecification {
    /// Makes the image that the volume is to have. Blocks.
    func makeImage(at path: String) throws(BlockError) {
        switch format {
        case .raw:
            guard backing == nil else {
                throw BlockError(
                    .unsupported, "create the volume", on: name,
                    detail: "a raw image has no backing: use --format qcow2")
            }
            try RawDevice.create(path: path, lengthBytes: lengthBytes)
        case .qcow2:
            try Qcow2Device.create(
                path: path, lengthBytes: lengthBytes,
                backing: backing.map { Qcow2Backing(name: $0.path, format: $0.format.rawValue) },
                pool: .background)
        }
    }
}
