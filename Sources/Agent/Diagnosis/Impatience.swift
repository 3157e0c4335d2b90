/// Waiting with an end for work that may hang in the kernel, where no cancellation reaches it.
enum Impatience {
    /// What `body` returns, or nil if it takes longer than `limit`; it then goes on by itself, and
    /// what it returns is dropped.
    static func wait<Value: Sendable>(
        for limit: Duration, _ body: @escaping @Sendable () async -> Value
    ) async -> Value? {
        let (results, continuation) = AsyncStream.makeStream(
            of: Value?.self, bufferingPolicy: .bufferingOldest(1))
        let work = Task { continuation.yield(await body()) }
        let clock = Task {
            try? await Task.sleep(for: limit)
            continuation.yield(nil)
        }
        defer {
            work.cancel()
            clock.cancel()
        }
        for await result in results { return result }
        return nil
    }
}
