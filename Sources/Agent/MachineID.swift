import BlockCore

/// What tells this host from others, as systemd keeps it.
enum MachineID {
    /// Nil on a host that has none.
    static func read() -> String? {
        guard let bytes = try? HostDirectory.readFile("/etc/machine-id", limitBytes: 4096) else {
            return nil
        }
        let text = String(decoding: bytes.prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
        return text.isEmpty ? nil : text
    }
}
