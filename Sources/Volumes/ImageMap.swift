package import BlockCore
import DriverQcow2

/// Where the content of a range of an image is, in the whole chain behind it.
package struct ImageMapExtent: Sendable, Equatable {
    package var range: ByteRange
    /// How many files below the image asked it was found.
    package var depth: Int
    /// Whether a file of the chain says what is here; else it is zeroes for want of anything.
    package var isPresent: Bool
    package var isZero: Bool
    package var isData: Bool
    package var isCompressed: Bool
    /// The file with the content, and where in it, if it is there in one piece and as it is.
    package var path: String?
    package var offset: UInt64?

    /// Appends this to `extents`, growing the last one where the two make one run.
    fileprivate func append(to extents: inout [ImageMapExtent]) {
        guard let last = extents.last else { return extents.append(self) }
        var grown = last
        grown.range.lengthBytes += range.lengthBytes
        var expected = self
        expected.range = last.range
        expected.offset = last.offset
        let isContiguous = offset == last.offset.map { $0 + last.range.lengthBytes }
        if expected == last, isContiguous {
            extents[extents.count - 1] = grown
        } else {
            extents.append(self)
        }
    }
}

/// Maps an image and its chain, from the files' own metadata.
///
/// Who writes one of the files at the same time makes the answer old before it is given.
package struct ImageMap {
    private enum Layer {
        case qcow2(Qcow2Map)
        case raw(HostFile, sizeBytes: UInt64)

        var sizeBytes: UInt64 {
            switch self {
            case .qcow2(let map): map.sizeBytes
            case .raw(_, let size): size
            }
        }
    }

    private let layers: [Layer]

    /// Opens the files of the chain of `path` for reading. Blocks.
    package init(path: String, format: ImageFormat) throws(BlockError) {
        var layers: [Layer] = []
        for file in try ImageOpener.chain(path: path, format: format) {
            switch file.format {
            case .qcow2: layers.append(.qcow2(try Qcow2Map(path: file.path)))
            case .raw:
                let file = try HostFile(path: file.path, access: .readOnly)
                layers.append(.raw(file, sizeBytes: try file.sizeBytes()))
            }
        }
        self.layers = layers
    }

    /// The guest-visible size.
    package var sizeBytes: UInt64 { layers[0].sizeBytes }

    /// All of the image, in runs as long as they can be. Blocks.
    package func extents() throws(BlockError) -> [ImageMapExtent] {
        var extents: [ImageMapExtent] = []
        var position: UInt64 = 0
        while position < sizeBytes {
            let extent = try extent(at: position)
            extent.append(to: &extents)
            position = extent.range.end
        }
        return extents
    }

    private func extent(at position: UInt64) throws(BlockError) -> ImageMapExtent {
        var end = sizeBytes
        for (depth, layer) in layers.enumerated() {
            end = min(end, layer.sizeBytes)
            var extent = try self.extent(at: position, end: end, in: layer)
            end = extent.range.end
            extent.depth = depth
            let hasBelow = depth + 1 < layers.count && layers[depth + 1].sizeBytes > position
            if extent.isPresent { return extent }
            if !hasBelow {
                extent.isZero = true
                return extent
            }
        }
        preconditionFailure("the last layer always answers")
    }

    private func extent(
        at position: UInt64, end: UInt64, in layer: Layer
    ) throws(BlockError) -> ImageMapExtent {
        switch layer {
        case .qcow2(let map):
            let run = try map.run(at: position, end: end)
            return ImageMapExtent(
                range: run.range, depth: 0, isPresent: run.kind != .unallocated,
                isZero: run.kind == .zero, isData: run.kind == .data || run.kind == .compressed,
                isCompressed: run.kind == .compressed,
                path: run.hostOffset == nil ? nil : map.dataPath, offset: run.hostOffset)
        case .raw(let file, _):
            let all = ByteRange(offset: position, end: end)
            let data = try file.nextData(in: all)
            let isData = data?.offset == position
            let until = isData ? data!.end : data?.offset ?? end
            return ImageMapExtent(
                range: ByteRange(offset: position, end: until), depth: 0, isPresent: true,
                isZero: !isData, isData: isData, isCompressed: false, path: file.path,
                offset: position)
        }
    }
}
