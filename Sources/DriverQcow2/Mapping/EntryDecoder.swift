import BlockCore

/// Tells what the L2 entries of one image mean.
struct EntryDecoder: Sendable {
    let geometry: Qcow2Geometry
    let version: UInt32
    /// Whether data is in a file of its own, where offset 0 is as good as any.
    let hasDataFile: Bool

    init(_ header: Qcow2Header) {
        geometry = header.geometry
        version = header.version
        hasDataFile = header.hasDataFile
    }

    /// What a valid `entry` says of the unit `unit` of its cluster, and where the cluster begins
    /// on the host; for a compressed one, the word of the entry.
    @inline(__always)
    func decode(_ entry: L2Entry, unit: Int) -> (kind: ClusterKind, host: UInt64) {
        let word = entry.word
        if word & Qcow2Layout.compressed != 0 { return (.compressed, word) }
        if geometry.hasSubclusters {
            if entry.units >> UInt64(32 + unit) & 1 != 0 { return (.zero, 0) }
            if entry.units >> UInt64(unit) & 1 == 0 { return (.unallocated, 0) }
        } else if word & Qcow2Layout.zero != 0 && version >= 3 {
            return (.zero, 0)
        }
        guard hasHost(entry) else { return (.unallocated, 0) }
        return (word & Qcow2Layout.copied != 0 ? .data : .sharedData, entry.host)
    }

    /// What is wrong with `entry`, which maps the cluster at `guestOffset`, if no writer makes such
    /// a one; nil if nothing is. Data must be in `space`.
    @inline(__always)
    func problem(_ entry: L2Entry, at guestOffset: UInt64, in space: HostSpace) -> String? {
        if entry == .unallocated { return nil }
        if entry.isCompressed { return compressedProblem(entry, in: space) }
        var reserved = Qcow2Layout.l2Reserved
        if geometry.hasSubclusters {
            reserved |= Qcow2Layout.zero
            if entry.units & entry.units >> 32 & L2Entry.allStored != 0 {
                return "has subclusters that are both stored and zero"
            }
            if entry.units & L2Entry.allStored != 0 && !hasHost(entry) {
                return "has subclusters that are stored nowhere"
            }
        } else if version < 3 {
            reserved |= Qcow2Layout.zero
        }
        if entry.word & reserved != 0 { return "has reserved bits set" }
        if entry.host & (geometry.clusterBytes - 1) != 0 { return "is not aligned" }
        if hasDataFile {
            // The format has external data where the guest has it, and nowhere else.
            guard hasHost(entry), entry.host != guestOffset else { return nil }
            return "has external data at \(entry.host), not at \(guestOffset)"
        }
        let cluster = ByteRange(offset: entry.host, lengthBytes: geometry.clusterBytes)
        if entry.host != 0 && !space.holds(cluster) { return "is beyond the end of the file" }
        return nil
    }

    private func compressedProblem(_ entry: L2Entry, in space: HostSpace) -> String? {
        if hasDataFile { return "is compressed, which an external data file rules out" }
        let location = CompressedLocation(entry: entry.word, clusterBits: geometry.clusterBits)
        return space.holds(location.range) ? nil : "is beyond the end of the file"
    }

    /// Whether `entry`, which is not compressed, names a host cluster.
    @inline(__always)
    func hasHost(_ entry: L2Entry) -> Bool {
        entry.host != 0 || hasDataFile && entry.word & Qcow2Layout.copied != 0
    }

    /// Whether the cluster has a place on the host that may be written: all of it, or with
    /// subclusters those that are stored and, once the entry says so, the others.
    func isOwn(_ entry: L2Entry) -> Bool {
        if entry.isCompressed || entry.word & Qcow2Layout.copied == 0 { return false }
        if !geometry.hasSubclusters && entry.word & Qcow2Layout.zero != 0 { return false }
        return hasHost(entry)
    }

    /// Whether the cluster's content is somewhere that must not be written: shared or compressed.
    func isForeign(_ entry: L2Entry) -> Bool {
        if entry.isCompressed { return true }
        return entry.word & Qcow2Layout.copied == 0 && hasHost(entry)
    }

    /// The host clusters of the image file that `entry` refers to; nil if none.
    func storage(of entry: L2Entry) -> ClusterRun? {
        if hasDataFile { return nil }
        if entry.isCompressed {
            let location = CompressedLocation(entry: entry.word, clusterBits: geometry.clusterBits)
            return geometry.clusters(of: location.range)
        }
        guard entry.host != 0 else { return nil }
        return ClusterRun(first: entry.host >> UInt64(geometry.clusterBits), count: 1)
    }
}
