package import Catalog

/// What a restored volume continues.
package struct VolumeOrigin: Sendable {
    /// A clean bitmap that continues the point from which the volume was restored.
    package struct Bitmap: Sendable {
        package var name: String
        package var granularityBytes: UInt64
        package var continues: PointReference

        package init(name: String, granularityBytes: UInt64, continues: PointReference) {
            self.name = name
            self.granularityBytes = granularityBytes
            self.continues = continues
        }
    }

    /// The uuid that the points of the chain bear, and the volume's own future points will.
    package var volumeUUID: String
    /// nil if the content is not the point's for certain.
    package var bitmap: Bitmap?
    /// The pin of the point that the volume is an overlay of, if it is.
    package var pinID: String?

    package init(volumeUUID: String, bitmap: Bitmap?, pinID: String? = nil) {
        self.volumeUUID = volumeUUID
        self.bitmap = bitmap
        self.pinID = pinID
    }
}
