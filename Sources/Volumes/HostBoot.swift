import Foundation

/// The time from one start of the host to the next.
enum HostBoot {
    /// What the kernel calls the present one; nil if it does not say.
    static let currentID: String? = {
        let text = try? String(contentsOfFile: "/proc/sys/kernel/random/boot_id", encoding: .utf8)
        return text?.trimmingCharacters(in: .whitespacesAndNewlines)
    }()
}
