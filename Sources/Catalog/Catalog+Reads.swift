package import Bitmaps
package import Foundation

// Every question of `CatalogSnapshot`, asked alone. Answers that must agree with each other come
// from one `read`.

extension Catalog {
    /// All volumes, by name.
    package func volumes() throws(CatalogError) -> [VolumeRecord] {
        try read { (snapshot) throws(CatalogError) in try snapshot.volumes() }
    }

    /// The volume of that name; throws `notFound` if there is none.
    package func volume(named name: String) throws(CatalogError) -> VolumeRecord {
        try read { (snapshot) throws(CatalogError) in try snapshot.volume(named: name) }
    }

    /// The nodes of a volume from the top down.
    package func nodes(ofVolume volumeID: Int64) throws(CatalogError) -> [NodeRecord] {
        try read { (snapshot) throws(CatalogError) in try snapshot.nodes(ofVolume: volumeID) }
    }

    /// The numbers of the regions in a volume's activity log, ascending.
    package func announcedRegions(ofVolume volumeID: Int64) throws(CatalogError) -> [UInt64] {
        try read { (snapshot) throws(CatalogError) in
            try snapshot.announcedRegions(ofVolume: volumeID)
        }
    }

    /// The bitmaps of a volume, successors among them, in the order of their making.
    package func bitmaps(ofVolume volumeID: Int64) throws(CatalogError) -> [BitmapRecord] {
        try read { (snapshot) throws(CatalogError) in try snapshot.bitmaps(ofVolume: volumeID) }
    }

    /// The bitmap with that number; throws `notFound` if there is none.
    package func bitmap(_ id: Int64) throws(CatalogError) -> BitmapRecord {
        try read { (snapshot) throws(CatalogError) in try snapshot.bitmap(id) }
    }

    /// The frozen bitmaps of all volumes: each waits for its backup to be settled.
    package func frozenBitmaps() throws(CatalogError) -> [BitmapRecord] {
        try read { (snapshot) throws(CatalogError) in try snapshot.frozenBitmaps() }
    }

    /// Loads the stored bits of a bitmap into `bitmap`, where they count as persisted. Throws
    /// `corrupt` if they do not fit it.
    package func loadChunks(ofBitmap id: Int64, into bitmap: DirtyBitmap) throws(CatalogError) {
        try read { (snapshot) throws(CatalogError) in
            try snapshot.loadChunks(ofBitmap: id, into: bitmap)
        }
    }

    /// All repositories, by name.
    package func repositories() throws(CatalogError) -> [RepositoryRecord] {
        try read { (snapshot) throws(CatalogError) in try snapshot.repositories() }
    }

    /// The repository of that name; throws `notFound` if there is none.
    package func repository(named name: String) throws(CatalogError) -> RepositoryRecord {
        try read { (snapshot) throws(CatalogError) in try snapshot.repository(named: name) }
    }

    /// The known points, oldest first: all, or those of a volume, of a repository, or both.
    package func points(ofVolume volumeUUID: UUID? = nil, inRepository repositoryID: Int64? = nil)
        throws(CatalogError) -> [PointRecord]
    {
        try read { (snapshot) throws(CatalogError) in
            try snapshot.points(ofVolume: volumeUUID, inRepository: repositoryID)
        }
    }

    /// The runs of jobs, newest first, at most `limit`.
    package func jobs(limit: Int = 1000) throws(CatalogError) -> [JobRecord] {
        try read { (snapshot) throws(CatalogError) in try snapshot.jobs(limit: limit) }
    }

    /// Whose catalog it is.
    package func identity() throws(CatalogError) -> CatalogIdentity {
        try read { (snapshot) throws(CatalogError) in try snapshot.identity() }
    }
}
