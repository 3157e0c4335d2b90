package import BlockCore
import Catalog

extension VolumeStore {
    /// Throws unless the image at `path`, which is in the chain of the volume `name` below its top,
    /// may be written: no other volume may read it, and restore points never change.
    package func checkMayWrite(_ path: String, of name: String) async throws(BlockError) {
        let others = try await records().filter { $0.volume.name != name }
        let places = try await queue.run { (catalog) throws(BlockError) in
            try catalog.reading { (snapshot) throws(CatalogError) in try snapshot.repositories() }
        }
        let arriving = arriving.filter { $0.key != name }
        try await IOPool.background.run { () throws(BlockError) in
            func refuse(_ detail: String) -> BlockError {
                BlockError(.busy, "write", on: path, detail: detail)
            }
            guard let image = ImageIdentity(of: path) else { return }
            let chains =
                others.map { ($0.volume.name, $0.nodes.map(\.path)) }
                + arriving.map { ($0.key, $0.value) }
            for (other, paths) in chains where paths.compactMap(ImageIdentity.init).contains(image)
            {
                throw refuse("volume \(other) uses it too, and would change with it")
            }
            for place in places where ImageFolder.contains(path, in: place.location) {
                throw refuse("it belongs to a restore point in repository \(place.name)")
            }
        }
    }
}
