import Catalog
import Control
import Foundation
import Jobs

extension QMPEventHub {
    /// Tells clients what happened to a job.
    func broadcast(job event: JobEvent) { broadcast(QMPEvent(event)) }
}

extension QMPEvent {
    fileprivate init(_ event: JobEvent) {
        switch event {
        case .statusChange(let id, let status):
            self.init(
                .jobStatusChange, JobStatusChange(id: id, status: Control.JobStatus(status)))
        case .ready(let moment):
            self.init(.blockJobReady, BlockJobMoment(moment))
        case .completed(let moment, let error):
            self.init(.blockJobCompleted, BlockJobMoment(moment, error: error))
        case .cancelled(let moment):
            self.init(.blockJobCancelled, BlockJobMoment(moment))
        case .error(let id, let isRead, let action):
            self.init(
                .blockJobError,
                BlockJobErrorData(
                    device: id, operation: isRead ? .read : .write,
                    action: BlockErrorAction(rawValue: action.rawValue) ?? .report))
        case .pending(let id, let type):
            self.init(.blockJobPending, BlockJobPendingData(type: type.rawValue, id: id))
        }
    }
}

extension BlockJobMoment {
    fileprivate init(_ moment: JobMoment, error: String? = nil) {
        self.init(
            type: moment.type.rawValue, device: moment.id, len: moment.totalBytes,
            offset: moment.currentBytes, speed: moment.speedBytes, error: error)
    }
}

extension QMPEventHub {
    /// Tells clients that an export is gone.
    func broadcast(exportDeleted id: String) {
        broadcast(QMPEvent(.blockExportDeleted, BlockExportDeletedData(id: id)))
    }
}

extension QMPEventHub {
    /// Tells clients that the agent is about to end.
    func broadcast(shutdownBy cause: ShutdownCause) {
        broadcast(QMPEvent(.shutdown, ShutdownData(reason: cause.rawValue)))
    }
}

/// Why an agent ends, in QEMU's words.
enum ShutdownCause: String {
    case quit = "host-qmp-quit"
    case signal = "host-signal"
}

extension JobRecord {
    init(_ history: JobHistory) {
        self.init(
            id: history.id, type: history.type.rawValue, state: history.status.rawValue,
            startedAt: history.started, endedAt: history.ended, error: history.error,
            detail: history.detail.json)
    }
}

extension JobDetail {
    /// As the catalog keeps it.
    fileprivate var json: String {
        guard let data = try? JSONEncoder().encode(self) else { return "{}" }
        return String(decoding: data, as: UTF8.self)
    }

    /// What the catalog has kept; nil if that is of another kind.
    init?(json: String) {
        guard let detail = try? JSONDecoder().decode(JobDetail.self, from: Data(json.utf8)) else {
            return nil
        }
        self = detail
    }
}
