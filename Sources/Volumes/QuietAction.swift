package import BlockCore

// What is asked for together, from the first check to the last file closed.
//
//   whoever makes an action has checked and prepared all that it can: images are made and opened,
//   jobs created, nothing changed
//   drain      what lags behind a guest catches up, of all actions at the same time
//   rest       what is at work on the volumes pauses
//   instant    `QuietTransaction`: all steps, or none
//   happened   of each: jobs begin or end, old images are closed
//   withdraw   instead, of each from the last: all is as before

/// Something that is prepared, and then takes effect at a quiet instant together with others, or does
/// not.
package struct QuietAction: Sendable {
    package typealias Work = @Sendable () async throws(BlockError) -> Void

    package var steps: [QuietStep]
    /// How often the instant is tried, with guests writing on in between, and how long each time.
    package var tries = 1
    package var deadline = Duration.seconds(10)
    package var drain: Work = { () throws(BlockError) in }
    package var rest: Work = { () throws(BlockError) in }
    /// After a try at which something was in the way for a moment.
    package var betweenTries: Work = { () throws(BlockError) in }
    package var happened: @Sendable (QuietOutcome) async -> Void = { _ in }
    package var withdraw: @Sendable () async -> Void = {}

    package init(_ steps: [QuietStep] = []) { self.steps = steps }
}

extension QuietTransaction {
    /// Has all `actions` take effect together; if that fails, all are withdrawn.
    @discardableResult
    package static func perform(_ actions: [QuietAction]) async throws(BlockError) -> QuietOutcome {
        let outcome: QuietOutcome
        do throws(BlockError) {
            try await drain(actions)
            for action in actions { try await action.rest() }
            outcome = try await run(
                actions.flatMap(\.steps), deadline: actions.map(\.deadline).min() ?? .seconds(10),
                tries: actions.map(\.tries).max() ?? 1
            ) { () throws(BlockError) in
                for action in actions { try await action.betweenTries() }
            }
        } catch {
            await withdraw(actions)
            throw error
        }
        for action in actions { await action.happened(outcome) }
        return outcome
    }

    /// Withdraws `actions` of which nothing has happened.
    package static func withdraw(_ actions: [QuietAction]) async {
        for action in actions.reversed() { await action.withdraw() }
    }

    private static func drain(_ actions: [QuietAction]) async throws(BlockError) {
        let failures = await withTaskGroup(of: BlockError?.self) { group in
            for action in actions {
                group.addTask {
                    do throws(BlockError) { try await action.drain() } catch { return error }
                    return nil
                }
            }
            return await group.reduce(into: [BlockError]()) { failures, failure in
                if let failure { failures.append(failure) }
            }
        }
        if let failure = failures.first { throw failure }
    }
}
