// How long a connection's thread lets requests gather before it looks for them.
//
// A client with a deep queue takes a reply, sends the next request, takes the next reply. A thread
// that waits for each of these requests is woken for each, and a wake-up of another processor costs
// both sides more than answering a request from the page cache does. So the thread sleeps for some
// tens of microseconds instead, with nobody to wake it, and then answers all that has come.
// Meanwhile the client is busy with the replies that it has not taken yet.
//
// The pause is found by trial, from what the last one brought:
//
//   less than a good batch     the client can go on alone for longer: a little more
//   a good batch               a little less, down to nothing if good batches come by themselves
//   every reply was taken      the client had nothing left to do: half; and if that happens often
//                              and brings no good batch, the client's queue is too short for both
//                              sides to work at once: no pauses for some thousands of requests, for
//                              more of them each time
//
// The first pause wants more than one request to have come at once. So a client that waits for each
// reply is never made to wait, and one with a short queue hardly ever.

/// The pause before a connection's thread waits for requests.
struct NBDGathering {
    /// Requests that are worth a wake-up together.
    static let goodBatch = 20
    /// The bytes of requests that are: a socket has room for little more.
    static let goodBatchBytes = 64 << 10
    static let pauseNanosecondsMax: Int64 = 100_000
    /// Less than this is not worth going to sleep for.
    static let pauseNanosecondsMin: Int64 = 8_000
    /// How many requests are answered without a pause when a client's queue was found too short.
    static let restRequests = 2_048...65_536
    private static let stepNanoseconds: Int64 = 2_000
    private static let drynessMax = 1.0

    /// How long to sleep now; zero for not at all.
    private(set) var pauseNanoseconds: Int64 = 0
    /// How many of about the last 16 pauses found every reply taken and brought no good batch.
    private var dryness = 0.0
    private var nextRestRequests = restRequests.lowerBound
    private var requestsToRest = 0

    /// Learns what came since the thread last waited.
    ///
    /// - Parameters:
    ///   - requests: how many were answered.
    ///   - bytes: how long they were together, with their payloads.
    ///   - clientRanDry: whether the client had taken every reply when the last pause ended.
    mutating func learn(requests: Int, bytes: Int, clientRanDry: Bool) {
        requestsToRest = max(0, requestsToRest - requests)
        let isGood = requests >= Self.goodBatch || bytes >= Self.goodBatchBytes
        if pauseNanoseconds > 0 {
            dryness += (clientRanDry && !isGood ? 1 : 0) - dryness / 16
            if dryness > Self.drynessMax { return rest() }
        }
        guard requestsToRest == 0 else { return }
        if clientRanDry {
            pauseNanoseconds /= 2
        } else if isGood {
            pauseNanoseconds -= pauseNanoseconds / 16
            nextRestRequests = Self.restRequests.lowerBound
        } else if requests > 1 || pauseNanoseconds > 0 {
            pauseNanoseconds = min(
                max(pauseNanoseconds + Self.stepNanoseconds, Self.pauseNanosecondsMin),
                Self.pauseNanosecondsMax)
        }
        if pauseNanoseconds < Self.pauseNanosecondsMin { pauseNanoseconds = 0 }
    }

    private mutating func rest() {
        pauseNanoseconds = 0
        dryness = 0
        requestsToRest = nextRestRequests
        nextRestRequests = min(nextRestRequests * 2, Self.restRequests.upperBound)
    }
}
