package import BlockCore

/// Creates or replaces the file at `path`.
package func writeFile(_ path: String, _ bytes: [UInt8]) throws(BlockError) {
    try HostDirectory.removeFile(path)
    let file = try HostFile(path: path, access: .create)
    try bytes.withBytes { (bytes) throws(BlockError) in try file.write(at: 0, from: bytes) }
}

/// The content of the file at `path`, up to 1 GiB.
package func readFile(_ path: String) throws(BlockError) -> [UInt8] {
    try HostDirectory.readFile(path, limitBytes: 1 << 30)
}
