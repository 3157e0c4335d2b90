import Glibc

/// How many files a process may have open: every volume needs a few.
enum OpenFileLimit {
    /// Raises it as far as the system lets everybody; the usual 1024 end at some hundred volumes.
    static func raise() {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
        limit.rlim_cur = limit.rlim_max
        _ = setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    }
}
