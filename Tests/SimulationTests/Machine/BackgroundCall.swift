import Foundation

/// A call that may block, on a thread of its own.
///
/// `@unchecked Sendable` because the outcome is written before the group is left, and read after
/// it was waited for.
final class BackgroundCall: @unchecked Sendable {
    private let group = DispatchGroup()
    private var failure: (any Error)?

    init(_ body: @escaping @Sendable () throws -> Void) {
        group.enter()
        Thread.detachNewThread { [self] in
            do { try body() } catch { failure = error }
            group.leave()
        }
    }

    /// Waits for so long at most, and tells whether the call is over.
    func isOver(withinMilliseconds milliseconds: Int) -> Bool {
        group.wait(timeout: .now() + .milliseconds(milliseconds)) == .success
    }

    /// Waits for the end, and throws what the call threw.
    func finish() throws {
        group.wait()
        if let failure { throw failure }
    }
}
