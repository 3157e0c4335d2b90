import GRDB

extension CatalogError {
    /// The error of a failed SQLite call.
    init(sqlite error: any Error, _ operation: String, on path: String) {
        guard let error = error as? DatabaseError else {
            self.init(.other, operation, on: path, detail: "\(error)")
            return
        }
        let message = error.message ?? "SQLite error \(error.extendedResultCode.rawValue)"
        switch error.resultCode {
        case .SQLITE_BUSY, .SQLITE_LOCKED:
            self.init(
                .busy, operation, on: path,
                detail: "another process is using it (\(message)); try again")
        case .SQLITE_CORRUPT, .SQLITE_NOTADB:
            self = .corrupt(operation, on: path, detail: message)
        case .SQLITE_FULL:
            self.init(
                .full, operation, on: path,
                detail: "\(message); free some space on its file system")
        case .SQLITE_CONSTRAINT:
            switch error.extendedResultCode {
            case .SQLITE_CONSTRAINT_UNIQUE, .SQLITE_CONSTRAINT_PRIMARYKEY:
                self.init(.duplicate, operation, on: path, detail: "it exists already (\(message))")
            case .SQLITE_CONSTRAINT_FOREIGNKEY:
                self.init(
                    .notFound, operation, on: path,
                    detail: "what it refers to does not exist, or something still refers to it")
            default:
                self.init(.other, operation, on: path, detail: message)
            }
        default:
            self.init(.other, operation, on: path, detail: message)
        }
    }
}
