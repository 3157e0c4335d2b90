import Glibc

/// What is fed with inputs; the answer is 0.
package typealias FuzzBody = @convention(c) (UnsafePointer<UInt8>, Int) -> CInt

// libFuzzer's own entry, for programs that have a `main` of their own as Swift's packages must.
@_silgen_name("LLVMFuzzerRunDriver")
private func runDriver(
    _ count: UnsafeMutablePointer<CInt>,
    _ arguments: UnsafeMutablePointer<
        UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>
    >, _ body: FuzzBody
) -> CInt

/// Feeds `body` with inputs as libFuzzer's options on the command line say.
package func fuzz(_ body: FuzzBody) -> Never {
    var count = CommandLine.argc
    var arguments = CommandLine.unsafeArgv
    exit(runDriver(&count, &arguments, body))
}
