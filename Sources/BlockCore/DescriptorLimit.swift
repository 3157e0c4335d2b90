import Glibc

/// How many files, sockets and devices this process may have open at a time.
package enum DescriptorLimit {
    /// Raises the limit to the highest that the system lets this process have. A shell or a service
    /// manager sets a low one for the sake of programs that use `select`, which we do not.
    package static func raise() {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
        limit.rlim_cur = limit.rlim_max
        _ = setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    }

    /// The limit as it is.
    package static var present: UInt64 {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return 0 }
        return UInt64(limit.rlim_cur)
    }
}
