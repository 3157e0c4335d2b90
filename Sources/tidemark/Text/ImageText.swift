import BlockCore
import Control
import DriverQcow2
import Volumes

/// Image files for people, and as JSON.
enum ImageText {
    /// What a check found.
    static func report(_ report: Qcow2CheckReport) -> String {
        var lines = report.findings.map { "\($0.kind.rawValue) at \($0.offset): \($0.detail)" }
        let total = report.leakCount + report.corruptionCount
        if total > UInt64(report.findings.count) {
            lines.append("… and \(total - UInt64(report.findings.count)) more")
        }
        if report.corruptionsFixedCount > 0 || report.leaksFixedCount > 0 {
            lines.append(
                "repaired: \(report.corruptionsFixedCount) errors, "
                    + "\(report.leaksFixedCount) leaked clusters")
        }
        if report.isMarkedDirty { lines.append("marked dirty: it was not closed by its writer") }
        if report.isMarkedCorrupt { lines.append("marked corrupt: QEMU opens it for reading only") }
        if !report.isComplete {
            lines.append("not all metadata can be followed, so nothing is given back")
        }
        lines.append(
            "\(report.allocatedCount) of \(report.clusterCount) clusters allocated, "
                + "\(report.compressedCount) compressed, \(report.fragmentedCount) fragmented; "
                + "the image ends at \(report.imageEndBytes)")
        lines.append(
            report.verdict == .clean
                ? "no errors"
                : "\(report.corruptionCount) errors, \(report.leakCount) leaked clusters")
        return lines.joined(separator: "\n")
    }

    /// What a check found; the members that `qemu-img check` has are named as there.
    static func document(_ report: Qcow2CheckReport, file: String) -> JSONValue {
        [
            "filename": .string(file), "format": "qcow2",
            "verdict": .string(report.verdict.rawValue),
            "corruptions": number(report.corruptionCount), "leaks": number(report.leakCount),
            "corruptions-fixed": number(report.corruptionsFixedCount),
            "leaks-fixed": number(report.leaksFixedCount),
            "total-clusters": number(report.clusterCount),
            "allocated-clusters": number(report.allocatedCount),
            "compressed-clusters": number(report.compressedCount),
            "fragmented-clusters": number(report.fragmentedCount),
            "image-end-offset": number(report.imageEndBytes),
            "dirty": .bool(report.isMarkedDirty), "corrupt": .bool(report.isMarkedCorrupt),
            "complete": .bool(report.isComplete),
            "findings": .array(
                report.findings.map {
                    [
                        "kind": .string($0.kind.rawValue), "offset": number($0.offset),
                        "detail": .string($0.detail),
                    ]
                }),
        ]
    }

    /// What an image says of itself; nil for a raw one.
    static func info(_ info: Qcow2Info?, file: String, fileBytes: UInt64) -> String {
        var lines = ["file         \(file), \(ByteSize.text(fileBytes))"]
        guard let info else {
            lines.append("format       raw")
            lines.append("size         \(fileBytes) (\(ByteSize.text(fileBytes)))")
            return lines.joined(separator: "\n")
        }
        lines.append("format       qcow2, version \(info.version)")
        lines.append("size         \(info.sizeBytes) (\(ByteSize.text(info.sizeBytes)))")
        lines.append(
            "clusters     \(ByteSize.text(info.clusterBytes)), \(info.refcountBits)-bit refcounts, "
                + "compressed with \(compression(info))")
        let features = features(info)
        if !features.isEmpty { lines.append("features     \(features.joined(separator: ", "))") }
        if let backing = info.backing {
            lines.append(
                "backing      \(backing.name) (\(backing.format ?? "format not recorded"))")
        }
        if let file = info.dataFile { lines.append("data file    \(file)") }
        if info.isMarkedDirty { lines.append("marked       dirty") }
        if info.isMarkedCorrupt { lines.append("marked       corrupt") }
        for snapshot in info.snapshots {
            let size = snapshot.diskBytes ?? info.sizeBytes
            lines.append("snapshot     \(snapshot.id) '\(snapshot.name)', \(ByteSize.text(size))")
        }
        for bitmap in info.bitmaps {
            let flags = flags(bitmap).map { ", \($0)" }.joined()
            lines.append(
                "bitmap       '\(bitmap.name)', granularity "
                    + "\(ByteSize.text(bitmap.granularityBytes))\(flags)")
        }
        return (lines + info.problems.map { "problem      \($0)" }).joined(separator: "\n")
    }

    /// What an image says of itself, as JSON.
    static func document(_ info: Qcow2Info?, file: String, fileBytes: UInt64) -> JSONValue {
        var members: [String: JSONValue] = [
            "filename": .string(file), "file-length": number(fileBytes),
            "format": .string(info == nil ? "raw" : "qcow2"),
            "virtual-size": number(info?.sizeBytes ?? fileBytes),
        ]
        guard let info else { return .object(members) }
        members["version"] = number(UInt64(info.version))
        members["cluster-size"] = number(info.clusterBytes)
        members["refcount-bits"] = number(UInt64(info.refcountBits))
        members["compression-type"] = .string(compression(info))
        members["features"] = .array(features(info).map { .string($0) })
        members["backing-filename"] = info.backing.map { .string($0.name) }
        members["backing-filename-format"] = info.backing?.format.map { .string($0) }
        members["data-file"] = info.dataFile.map { .string($0) }
        members["dirty-flag"] = .bool(info.isMarkedDirty)
        members["corrupt"] = .bool(info.isMarkedCorrupt)
        members["snapshots"] = .array(
            info.snapshots.map {
                [
                    "id": .string($0.id), "name": .string($0.name),
                    "virtual-size": number($0.diskBytes ?? info.sizeBytes),
                    "vm-state-size": number($0.vmStateBytes),
                    "date-sec": number(UInt64($0.dateSeconds)),
                ]
            })
        members["bitmaps"] = .array(
            info.bitmaps.map {
                [
                    "name": .string($0.name), "granularity": number($0.granularityBytes),
                    "flags": .array(flags($0).map { .string($0) }),
                ]
            })
        members["problems"] = .array(info.problems.map { .string($0) })
        return .object(members)
    }

    /// One line per run.
    static func map(_ extents: [ImageMapExtent]) -> String {
        var table = TextTable([
            .number("OFFSET"), .number("LENGTH"), .text("CONTENT"), .number("DEPTH"),
            .number("AT"), .text("FILE"),
        ])
        for extent in extents {
            let content = extent.isCompressed ? "compressed" : extent.isData ? "data" : "zero"
            table.append([
                "\(extent.range.offset)", "\(extent.range.lengthBytes)", content,
                "\(extent.depth)", extent.offset.map { "\($0)" } ?? "-", extent.path ?? "-",
            ])
        }
        return table.text
    }

    /// One run, as JSON.
    static func document(_ extent: ImageMapExtent) -> JSONValue {
        var members: [String: JSONValue] = [
            "start": number(extent.range.offset), "length": number(extent.range.lengthBytes),
            "depth": .int(Int64(extent.depth)), "present": .bool(extent.isPresent),
            "zero": .bool(extent.isZero), "data": .bool(extent.isData),
            "compressed": .bool(extent.isCompressed),
        ]
        members["offset"] = extent.offset.map(number)
        members["filename"] = extent.path.map { .string($0) }
        return .object(members)
    }

    private static func features(_ info: Qcow2Info) -> [String] {
        var features: [String] = []
        if info.hasLazyRefcounts { features.append("lazy-refcounts") }
        if info.hasExtendedL2 { features.append("extended-l2") }
        if info.dataFile != nil {
            features.append(info.isDataFileRaw ? "data-file-raw" : "data-file")
        }
        return features
    }

    private static func flags(_ bitmap: Qcow2Bitmap) -> [String] {
        (bitmap.isInUse ? ["in-use"] : []) + (bitmap.isAutomatic ? ["auto"] : [])
    }

    /// QEMU calls deflate by the name of its library.
    private static func compression(_ info: Qcow2Info) -> String {
        info.compression == .zstd ? "zstd" : "zlib"
    }

    private static func number(_ value: UInt64) -> JSONValue {
        Int64(exactly: value).map { .int($0) } ?? .uint(value)
    }
}
