import GRDB

// Pins of points. A row is committed before the pin is registered in its repository, and removed
// after the pin is gone from there, so that no crash leaves a pin that nobody takes away.

extension CatalogSnapshot {
    /// The pins of this agent.
    package func pins() throws(CatalogError) -> [PinRecord] {
        try fetchAll("SELECT * FROM point_pin ORDER BY id")
    }
}

extension CatalogTransaction {
    /// Adds a pin that is about to be registered.
    package func insertPin(_ pin: PinRecord) throws(CatalogError) {
        try execute(
            "INSERT INTO point_pin (id, repositoryID, pointID, volumeID) VALUES (?, ?, ?, ?)",
            [pin.id, pin.point.repositoryID, pin.point.pointID, pin.volumeID],
            "add the pin \(pin.id)")
    }

    /// Says which volume a pin is for.
    package func givePin(_ id: String, toVolume volumeID: Int64?) throws(CatalogError) {
        try executeOnOne(
            "UPDATE point_pin SET volumeID = ? WHERE id = ?", [volumeID, id],
            "change the pin \(id)")
    }

    /// Forgets a pin that is not in its repository any more.
    package func deletePin(_ id: String) throws(CatalogError) {
        try execute("DELETE FROM point_pin WHERE id = ?", [id], "remove the pin \(id)")
    }
}
