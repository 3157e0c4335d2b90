import BlockCore
import Jobs
import Testing

/// Waiting for what may hang.
@Suite struct DetachmentTests {
    @Test func whatTakesTooLongIsLeftBehind() async throws {
        let start = ContinuousClock.now
        let error = await #expect(throws: BlockError.self) {
            try await Detachment.run(on: "vault", within: .milliseconds(20)) {
                () async throws(BlockError) in
                // As a system call does, it takes no notice of a cancellation.
                while ContinuousClock.now - start < .seconds(2) { await Task.yield() }
            }
        }
        #expect(error?.kind == .timedOut)
        #expect(ContinuousClock.now - start < .seconds(1))
    }

    @Test func whatEndsInTimeIsReturned() async throws {
        let answer = try await Detachment.run(on: "vault", within: .seconds(60)) {
            () async throws(BlockError) in 7
        }
        #expect(answer == 7)
    }
}
