// How much a job may have in flight that is to be in no guest's way.
//
// Time is cut into ticks. While guests ask for nothing, the job takes all there is. Once they do, it is
// *gentle* (`IdlePace`), and rests for a tick: what their requests take then is the *usual* time. From
// there it goes up by one request a tick, and goes back by half as soon as guests' requests take
// noticeably longer than usual; if they do with a single one, it rests, longer each time that is in
// vain. What is seen while it rests is the usual time from then on, and after a while it looks again.

/// The number of requests that a job at idle priority may have in flight.
struct IdlePolicy: Sendable {
    /// Requests that take this much longer than usual, and a bit, are noticed.
    private static let tolerance = 1.5
    private static let toleranceSeconds = 0.0005
    private static let usualTicksMax = 50
    private static let restTicksMax = 16

    /// What it may have in flight with nobody else there.
    let countMax: Int
    private(set) var allowedCount = 1
    private var usualSeconds: Double?
    private var usualAge = 0
    private var idleTicks = 0
    private var restTicks = 1
    private var restLeft = 0

    /// Whether guests are there, as far as is known.
    var isGentle: Bool { idleTicks <= 1 }

    init(countMax: Int) { self.countMax = countMax }

    /// A tick is over, in which guests' requests came to this. `isAtRest` is whether the job had
    /// nothing in flight in it.
    mutating func tick(_ guests: GuestTick, isAtRest: Bool) {
        guard guests.areThere else {
            idleTicks += 1
            guard idleTicks > 1 else { return }
            allowedCount = countMax
            (restTicks, restLeft) = (1, 0)
            return
        }
        idleTicks = 0
        usualAge += 1
        if allowedCount == 0 { return rest(guests, isAtRest) }
        guard let usualSeconds, usualAge < Self.usualTicksMax else {
            (allowedCount, restLeft) = (0, 1)
            return
        }
        if guests.meanSeconds <= usualSeconds * Self.tolerance + Self.toleranceSeconds {
            allowedCount = min(allowedCount + 1, countMax)
            restTicks = max(restTicks / 2, 1)
        } else if allowedCount > 1 {
            allowedCount /= 2
        } else {
            (allowedCount, restLeft) = (0, restTicks)
            restTicks = min(restTicks * 2, Self.restTicksMax)
        }
    }

    private mutating func rest(_ guests: GuestTick, _ isAtRest: Bool) {
        guard isAtRest else { return }
        (usualSeconds, usualAge) = (guests.meanSeconds, 0)
        restLeft -= 1
        if restLeft <= 0 { allowedCount = 1 }
    }
}

/// What guests' requests came to in one tick.
struct GuestTick: Sendable {
    /// Those that were answered at once.
    var promptCount = 0
    /// Those that took time.
    var requestCount: Int
    var seconds: Double

    var areThere: Bool { promptCount + requestCount > 0 }

    var meanSeconds: Double { requestCount > 0 ? seconds / Double(requestCount) : 0 }
}
