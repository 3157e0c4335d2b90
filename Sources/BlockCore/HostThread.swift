import CLinux
import Glibc

/// A detached system thread.
package enum HostThread {
    private final class Start {
        let name: String
        let body: @Sendable () -> Void

        init(name: String, body: @escaping @Sendable () -> Void) {
            self.name = name
            self.body = body
        }
    }

    /// Starts a thread that the process cannot do without, to run `body` and end with it. The name
    /// is cut to 15 bytes.
    package static func start(name: String, _ body: @escaping @Sendable () -> Void) {
        do throws(BlockError) { try tryStart(name: name, body) } catch {
            preconditionFailure("\(error)")
        }
    }

    /// Starts a thread like `start`; throws if the system has none to give.
    package static func tryStart(
        name: String, _ body: @escaping @Sendable () -> Void
    ) throws(BlockError) {
        let start = Unmanaged.passRetained(Start(name: name, body: body))
        var attributes = pthread_attr_t()
        pthread_attr_init(&attributes)
        pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))
        pthread_attr_setstacksize(&attributes, 1 << 20)
        var thread = pthread_t()
        let status = pthread_create(
            &thread, &attributes,
            { context in
                let start = Unmanaged<Start>.fromOpaque(context!).takeRetainedValue()
                clinux_name_thread(start.name)
                start.body()
                return nil
            }, start.toOpaque())
        pthread_attr_destroy(&attributes)
        guard status == 0 else {
            start.release()
            throw .system("start a thread", on: name, errno: status)
        }
    }
}
