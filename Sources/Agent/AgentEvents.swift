import Catalog
import Control
import Jobs

extension QMPEventHub {
    /// Tells clients of a job's new state.
    func broadcast(job change: Jobs.JobStatusChange) {
        broadcast(
            QMPEvent(
                .jobStatusChange,
                Control.JobStatusChange(
                    id: change.id, status: Control.JobStatus(change.status))))
    }
}

extension QMPEventHub {
    /// Tells clients that an export is gone.
    func broadcast(exportDeleted id: String) {
        broadcast(QMPEvent(.blockExportDeleted, BlockExportDeletedData(id: id)))
    }
}

extension JobRecord {
    init(_ history: JobHistory) {
        self.init(
            id: history.id, type: history.type.rawValue, state: history.status.rawValue,
            startedAt: history.started, endedAt: history.ended, error: history.error)
    }
}
