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
        self.init(
            file: images[0].path, nodeName: volume.name, isReadOnly: volume.isReadOnly,
            driver: images[0].format.rawValue,
            image: try await BlockImageInfo.chain(
                images, lengthBytes: volume.lengthBytes, isFlat: isFlat),
            bitmaps: volume.bitmapStatuses().map(BitmapInfo.init))
    }

    /// A node that was opened with `blockdev-add`.
    init(_ node: Node, isFlat: Bool) async throws(BlockError) {
        self.init(
            file: try await BlockImageInfo(node, isFlat: true).filename, nodeName: node.name,
            isReadOnly: node.isReadOnly, driver: node.options.driver.name,
            detectZeroes: BlockdevDetectZeroes(rawValue: node.options.zeroDetection.rawValue)
                ?? .off,
            image: try await BlockImageInfo(node, isFlat: isFlat),
            isDirect: node.options.isDirect)
    }
}

extension BlockImageInfo {
    /// What a node shows; unless `isFlat`, with what it stands on if that is an image too.
    init(_ node: Node, isFlat: Bool) async throws(BlockError) {
        let driver = node.options.driver
        if let images = node.images {
            self = try await .chain(images.nodes, lengthBytes: node.lengthBytes, isFlat: isFlat)
            format = driver.name
        } else if case .file(let path) = driver {
            self.init(filename: path, format: driver.name, virtualSize: node.lengthBytes)
        } else {
            self.init(
                filename: node.childName ?? "", format: driver.name,
                virtualSize: node.lengthBytes)
        }
        guard !isFlat, let below = node.shownBelow else { return }
        backingImage =
            switch below {
            case .node(let node): try await BlockImageInfo(node, isFlat: false)
            case .volume(let volume):
                try await .chain(
                    volume.imageNodes, lengthBytes: volume.lengthBytes, isFlat: false)
            }
    }

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
