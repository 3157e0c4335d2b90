import Foundation

// A backing file can be named by QEMU's options as JSON, nested or with dotted keys:
//
//     json:{"driver": "qcow2", "file": {"driver": "file", "filename": "base.qcow2"}}
//     json:{"driver": "qcow2", "file.driver": "file", "file.filename": "base.qcow2"}
//
// What comes down to a file and its format is taken as if the header had named them plainly.

extension Qcow2Backing {
    /// Options that do not change what is read.
    private static let harmlessOptions: Set<String> = [
        "node-name", "read-only", "auto-read-only", "discard", "detect-zeroes", "locking", "aio",
        "cache.direct", "cache.no-flush", "cache.writeback", "drop-cache", "lazy-refcounts",
    ]
    private static let fileDrivers: Set<String> = ["file", "host_device"]

    /// The backing file that a header means by `name` and `format`. A name by options that come
    /// down to anything but a file stays as it is, with the driver that it asks for as its format.
    init(headerName name: String, format: String?) {
        if let plain = name.droppingPrefix("file:") {
            self.init(name: plain, format: format)
            return
        }
        guard let text = name.droppingPrefix("json:") else {
            self.init(name: name, format: format)
            return
        }
        let options = Self.options(text) ?? ["driver": "json"]
        let driver = options["driver"]
        let isFileItself = driver.map { Self.fileDrivers.contains($0) } ?? false
        let fileDriver = isFileItself ? driver : options["file.driver"]
        let fileName = options[isFileItself ? "filename" : "file.filename"]
        let unknown = options.keys.filter { key in
            let known = ["driver", "file.driver", "filename", "file.filename"]
            let plain = key.droppingPrefix("file.") ?? key
            return !known.contains(key) && !Self.harmlessOptions.contains(plain)
        }
        guard let fileName, unknown.isEmpty, fileDriver.map(Self.fileDrivers.contains) ?? true
        else {
            let fileFormat = fileDriver.map { Self.fileDrivers.contains($0) ? nil : $0 } ?? nil
            let asked = fileFormat ?? driver ?? "json"
            self.init(
                name: name,
                format: unknown.isEmpty
                    ? asked : "\(asked) with \(unknown.sorted().joined(separator: ", "))")
            return
        }
        self.init(name: fileName, format: isFileItself ? "raw" : driver ?? format)
    }

    /// The options in `text` with dotted keys; nil unless it is an object of strings, numbers,
    /// booleans and such objects.
    private static func options(_ text: String) -> [String: String]? {
        guard let object = try? JSONSerialization.jsonObject(with: Data(text.utf8)),
            let dictionary = object as? [String: Any]
        else { return nil }
        var result: [String: String] = [:]
        func add(_ dictionary: [String: Any], _ prefix: String) -> Bool {
            dictionary.allSatisfy { key, value in
                switch value {
                case let inner as [String: Any]: return add(inner, prefix + key + ".")
                case let text as String: result[prefix + key] = text
                case let number as NSNumber: result[prefix + key] = number.stringValue
                default: return false
                }
                return true
            }
        }
        return add(dictionary, "") ? result : nil
    }
}

extension String {
    /// What follows `prefix`; nil if the string does not begin with it.
    fileprivate func droppingPrefix(_ prefix: String) -> String? {
        hasPrefix(prefix) ? String(dropFirst(prefix.count)) : nil
    }
}
