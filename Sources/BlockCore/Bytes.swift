// The standard library's `withUnsafeBytes` of an array forgets which error its body throws; these
// keep it, so that the data plane's throws stay typed.

extension [UInt8] {
    /// Calls `body` with the array's bytes, which are valid for the call alone.
    package func withBytes<R>(
        _ body: (UnsafeRawBufferPointer) throws(BlockError) -> R
    ) throws(BlockError) -> R {
        let result: Result<R, BlockError> = withUnsafeBytes { bytes in
            do throws(BlockError) { return .success(try body(bytes)) } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }

    /// Calls `body` with the array's bytes to change, which are valid for the call alone.
    package mutating func withMutableBytes<R>(
        _ body: (UnsafeMutableRawBufferPointer) throws(BlockError) -> R
    ) throws(BlockError) -> R {
        let result: Result<R, BlockError> = withUnsafeMutableBytes { bytes in
            do throws(BlockError) { return .success(try body(bytes)) } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }
}
