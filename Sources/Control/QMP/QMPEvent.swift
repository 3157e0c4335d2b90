internal import Foundation

/// Something that happened, with the time at which it did.
package struct QMPEvent: Sendable, Equatable {
    package var name: String
    /// Absent where the event says it all by its name.
    package var data: JSONValue?
    /// Since 1970.
    package var seconds: Int64
    package var microseconds: Int64

    package init(name: String, data: JSONValue?, seconds: Int64, microseconds: Int64) {
        self.name = name
        self.data = data
        self.seconds = seconds
        self.microseconds = microseconds
    }

    /// An event of this instant. What cannot be encoded is left out.
    package init(_ event: ControlEvent, _ data: (some Encodable)? = Optional<Nothing>.none) {
        var now = timespec()
        clock_gettime(CLOCK_REALTIME, &now)
        self.init(
            name: event.rawValue, data: data.flatMap { try? JSONValue(encoding: $0) },
            seconds: Int64(now.tv_sec), microseconds: Int64(now.tv_nsec) / 1000)
    }

    /// The event that a client received; nil if `message` is none.
    init?(message: JSONValue) {
        guard let name = message["event"]?.stringValue else { return nil }
        self.init(
            name: name, data: message["data"],
            seconds: message["timestamp"]?["seconds"]?.intValue ?? 0,
            microseconds: message["timestamp"]?["microseconds"]?.intValue ?? 0)
    }

    /// The event as it goes over the wire.
    package var message: JSONValue {
        var members: [String: JSONValue] = [
            "event": .string(name),
            "timestamp": ["seconds": .int(seconds), "microseconds": .int(microseconds)],
        ]
        members["data"] = data
        return .object(members)
    }
}
