/// A write whose content comes little by little. To whoever looks at the device as of an instant it is
/// one write, which has not been or has been; what overlaps it waits for its end.
package protocol GradualWrite: AnyObject, Sendable {
    /// Writes `source`, which lies in the range of the write, if that needs no waiting.
    func tryWrite(at offset: UInt64, from source: UnsafeRawBufferPointer) throws(BlockError) -> Bool

    /// Writes `source`, which lies in the range of the write.
    func write(at offset: UInt64, from source: BufferSlice) async throws(BlockError)

    /// Ends the write, whether or not all of it has come. Called once; nothing follows.
    func end()
}
