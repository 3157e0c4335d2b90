import Glibc

/// For as long as it lasts, this process may open few descriptors more than it has.
package final class DescriptorShortage {
    private var before = rlimit()
    private var isOver = false

    /// Leaves room for `free` more.
    package init(free: Int = 1) {
        let next = dup(0)
        close(next)
        getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &before)
        var limit = before
        limit.rlim_cur = rlim_t(Int(next) + free)
        setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    }

    deinit { end() }

    /// Ends it.
    package func end() {
        guard !isOver else { return }
        isOver = true
        setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &before)
    }
}
