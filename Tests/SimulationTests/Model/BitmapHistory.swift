/// Which requests a user's bitmap must have recorded, from what was asked of it. Time is as in
/// `GuestHistory`.
struct BitmapHistory {
    enum Verb: Equatable {
        case add, enable, disable, clear
        /// The dirt of another bitmap of the volume is added.
        case merge(from: String)
    }

    private struct Event {
        let verb: Verb
        let issued: Moment
        var answered: Moment?
    }

    let name: String
    let granularityBytes: Int
    private var events: [Event] = []

    init(name: String, granularityBytes: Int) {
        self.name = name
        self.granularityBytes = granularityBytes
    }

    mutating func add(_ verb: Verb, issued: Moment, answered: Moment) {
        events.append(Event(verb: verb, issued: issued, answered: answered))
    }

    /// Whether it is certainly there at `now`.
    func exists(at now: Moment) -> Bool {
        events.contains { $0.verb == .add && $0.answered.map { $0 < now } ?? false }
    }

    /// Whether it records, when nothing is asked of it.
    var isRecording: Bool {
        events.last { [.add, .enable, .disable].contains($0.verb) }?.verb != .disable
    }

    /// The requests that must be dirty in it at `now`.
    func requests(
        of guest: GuestHistory, at now: Moment, others: [String: BitmapHistory]
    ) -> Set<Int> {
        var required: Set<Int> = []
        var recordsSince: Moment?
        func record(until end: Moment) {
            guard let start = recordsSince else { return }
            for (index, request) in guest.requests.enumerated()
            where request.issued > start && request.issued < end && !request.isObservation {
                required.insert(index)
            }
        }
        for event in events where event.issued < now {
            let isDone = event.answered.map { $0 < now } ?? false
            switch event.verb {
            case .add, .enable:
                if isDone { recordsSince = recordsSince ?? event.answered }
            case .disable:
                record(until: event.issued)
                recordsSince = nil
            case .clear:
                required = []
                if recordsSince != nil { recordsSince = event.issued }
            case .merge(let source):
                guard isDone, let other = others[source] else { continue }
                required.formUnion(other.requests(of: guest, at: event.issued, others: others))
            }
        }
        record(until: now)
        return required
    }
}
