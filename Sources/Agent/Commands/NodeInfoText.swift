import BlockCore
import Control
import DriverQcow2
import Glibc
import Nodes
import Volumes

extension BlockNodeInfo {
    /// A volume as QEMU would describe its node.
    init(_ volume: Volume, isFlat: Bool) async throws(BlockError) {
        let images = volume.imageNodes
        let image = try await BlockImageInfo.chain(
            images, lengthBytes: volume.lengthBytes, isFlat: isFlat)
        self.init(
            file: images[0].path, nodeName: volume.name, isReadOnly: volume.isReadOnly,
            driver: images[0].format.rawValue, image: image,
            bitmaps: volume.bitmapStatuses().map(BitmapInfo.init))
        backingFileDepth = images.count - 1
    }

    /// A node that was opened with `blockdev-add`.
    init(_ node: Node, isFlat: Bool) async throws(BlockError) {
        let driver = node.options.driver
        let image: BlockImageInfo
        if let images = node.images {
            image = try await BlockImageInfo.chain(
                images.nodes, lengthBytes: node.lengthBytes, isFlat: isFlat)
        } else if case .file(let path) = driver {
            image = BlockImageInfo(
                filename: path, format: "file", virtualSize: node.lengthBytes)
        } else {
            image = BlockImageInfo(
                filename: node.childName ?? "", format: driver.name,
                virtualSize: node.lengthBytes)
        }
        self.init(
            file: image.filename, nodeName: node.name, isReadOnly: node.isReadOnly,
            driver: driver.name,
            detectZeroes: BlockdevDetectZeroes(rawValue: node.options.zeroDetection.rawValue)
                ?? .off,
            image: image, isDirect: node.options.isDirect)
        self.image.format = driver.name
        backingFileDepth = (node.images?.nodes.count ?? 1) - 1
    }
}

extension BlockImageInfo {
    /// The first of `images` with those behind it; unless `isFlat`, in full.
    static func chain(
        _ images: [ImageNode], lengthBytes: UInt64, isFlat: Bool
    ) async throws(BlockError) -> BlockImageInfo {
        try await IOPool.background.run { () throws(BlockError) in
            var below: BlockImageInfo?
            for (index, image) in images.enumerated().reversed() {
                var info = BlockImageInfo(
                    filename: image.path, format: image.format.rawValue,
                    virtualSize: index == 0 ? lengthBytes : image.device.lengthBytes)
                info.actualSize = allocatedBytes(of: image.path)
                if let qcow2 = image.device as? Qcow2Device {
                    info.clusterSize = qcow2.header.clusterBytes
                }
                if let below {
                    info.backingFilename = below.filename
                    info.backingFilenameFormat = below.format
                    if !isFlat { info.backingImage = below }
                }
                below = info
            }
            guard let below else { preconditionFailure("a chain has an image") }
            return below
        }
    }

    private static func allocatedBytes(of path: String) -> UInt64? {
        var status = stat()
        guard stat(path, &status) == 0 else { return nil }
        return UInt64(status.st_blocks) * 512
    }
}
