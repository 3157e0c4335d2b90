import BlockCore

extension Manifest {
    /// What in the manifest contradicts itself; nil if nothing does.
    var fault: String? {
        if formatVersion != Manifest.formatVersion { return "format version \(formatVersion)" }
        if let fault = lineageFault { return fault }
        if let fault = sizeFault { return fault }
        for (name, suffix) in [(image.file, "qcow2"), (extents.file, "digests")]
        where !isOwnFile(name, suffix: suffix) {
            return "\"\(name)\" is no name of a .\(suffix) file of this point"
        }
        for digest in [contentDigest, extents.sha256, parent?.contentDigest ?? contentDigest]
        where !Hexadecimal.isSHA256(digest) {
            return "\"\(digest)\" is no SHA-256"
        }
        return nil
    }

    private var lineageFault: String? {
        guard let parent else {
            return level == .full ? nil : "an increment without a parent"
        }
        guard level != .full else { return "a full with a parent" }
        return parent.point < point ? nil : "its id is not above its parent's, \(parent.point)"
    }

    private var sizeFault: String? {
        guard granularityBytes.isPowerOfTwo else {
            return "granularity \(granularityBytes) is no power of two"
        }
        guard digest.gridBytes == Grid.cellBytes(granularityBytes: granularityBytes),
            image.clusterBytes == Grid.clusterBytes(granularityBytes: granularityBytes)
        else { return "grid or clusters do not follow from the granularity" }
        guard volume.lengthBytes <= Grid.volumeBytesMax,
            image.lengthBytes == Grid.imageBytes(volumeBytes: volume.lengthBytes)
        else { return "the image's length does not follow from the volume's" }
        let (covered, overflow) = extents.dataBytes.addingReportingOverflow(extents.zeroBytes)
        guard !overflow, covered <= volume.lengthBytes,
            level != .full || covered == volume.lengthBytes
        else { return "the extents do not fit the volume" }
        return nil
    }

    /// A manifest names files of its own point in its own folder, and nothing else.
    private func isOwnFile(_ name: String, suffix: String) -> Bool {
        name.hasPrefix("\(point.text).") && name.hasSuffix(".\(suffix)")
            && name.utf8.count <= 128
            && name.utf8.allSatisfy { byte in
                Character(UnicodeScalar(byte)).isLetter || Character(UnicodeScalar(byte)).isNumber
                    || byte == UInt8(ascii: ".") || byte == UInt8(ascii: "-")
            }
    }
}
