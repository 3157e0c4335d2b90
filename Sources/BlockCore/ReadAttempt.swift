/// What an attempt to read without waiting came to.
package enum ReadAttempt: Equatable, Sendable {
    case done
    /// The first `doneBytes` are there, and what follows is on its way into memory: whoever reads it
    /// now waits for the medium, and as good as all that were begun before arrive at the same time.
    case begun(doneBytes: Int)
    /// Nothing was done, and what the destination holds is undefined.
    case refused
}
