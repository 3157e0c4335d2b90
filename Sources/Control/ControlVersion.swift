/// Which agent this is, as the greeting and `query-version` say it.
package enum ControlVersion {
    package static let major = 0
    package static let minor = 1
    package static let micro = 0

    /// `MAJOR.MINOR.MICRO`.
    package static let text = "\(major).\(minor).\(micro)"

    /// The same in QEMU's form. The numbers are the agent's own, not those of a QEMU.
    package static let info = VersionInfo(
        qemu: VersionTriple(major: major, minor: minor, micro: micro), package: "tidemark")
}
