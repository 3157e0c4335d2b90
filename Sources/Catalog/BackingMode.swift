/// What a volume does about what it has only in images below its top.
package enum BackingMode: String, CaseIterable, Sendable {
    /// Reads it there each time; what guests write goes to the top.
    case cow
    /// Stores in the top what guests read, too.
    case cor
    /// Copies all of it into the top, at idle priority; `cow` when that is done.
    case stream
}
