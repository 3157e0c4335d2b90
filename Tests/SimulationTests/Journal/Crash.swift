import TestSupport

// What a crash leaves of what a journal says up to a record.
//
// A *process kill* leaves everything that was written. A *power loss* leaves what was synced, and
// of the rest an arbitrary part:
//
//   content   Each write since the file's last sync may be there, missing, or there in part, by
//             sectors of 512 bytes or of 4 KiB; so may each zeroing. A truncation may be missing.
//   names     Each creation, renaming, linking and removal since the directory's last sync may be
//             missing. A file whose name is missing is gone, and so is all in a directory whose
//             name is missing. One operation is whole or missing.
//
// How much is kept is drawn for each file, so that one may lose all of what another keeps. File
// systems that keep more order than that leave a part of these states, none beyond them.

/// How an agent ends.
enum Crash: CaseIterable {
    case kill
    case powerLoss

    /// The state of the disk after the first `cut` records of `journal`, which began on `base`.
    func state(
        of journal: FileJournal, on base: DiskState, cut: Int, _ random: inout SplitMix64
    ) -> DiskState {
        var history = DiskHistory(base: base)
        for index in 0..<cut { history.add(journal.records[index], at: index) }
        var state = DiskState()
        let names = history.names.outcome(isPowerLoss: self == .powerLoss, &random)
        for (path, entry) in names.sorted(by: { $0.key < $1.key }) {
            guard Self.isReachable(path, names) else { continue }
            switch entry {
            case .directory: state.directories.insert(path)
            case .file(let index):
                state.files[path] = history.files[index].outcome(
                    journal, isPowerLoss: self == .powerLoss, &random)
            }
        }
        return state
    }

    private static func isReachable(_ path: String, _ names: [String: NameHistory.Entry]) -> Bool {
        let parent = NameHistory.parent(of: path)
        guard !parent.isEmpty else { return true }
        guard case .directory = names[parent] else { return false }
        return isReachable(parent, names)
    }
}

/// The files and names that the records so far are about.
private struct DiskHistory {
    var files: [FileHistory] = []
    var names = NameHistory()
    /// The file that has an inode now: inodes of removed files are used again.
    private var current: [UInt64: Int] = [:]

    init(base: DiskState) {
        for directory in base.directories { names.addDurably(directory, .directory) }
        for (path, file) in base.files {
            current[file.inode] = files.count
            names.addDurably(path, .file(files.count))
            files.append(FileHistory(base: file))
        }
    }

    mutating func add(_ record: JournalRecord, at index: Int) {
        switch record.kind {
        case .note: break
        case .create:
            current[record.inode] = files.count
            names.change(record.path, to: .file(files.count))
            files.append(
                FileHistory(
                    base: DiskState.File(
                        inode: record.inode, bytes: [], modifiedNanoseconds: record.nanoseconds)))
        case .makeDirectory: names.change(record.path, to: .directory)
        case .remove: names.change(record.path, to: nil)
        case .rename: names.rename(record.path, to: record.otherPath)
        case .link: names.link(record.path, to: record.otherPath)
        case .syncDirectory: names.sync(record.path)
        case .write, .truncate, .zero, .allocate, .sync:
            guard let file = current[record.inode] else {
                preconditionFailure("record \(index) is about a file that was never created")
            }
            files[file].add(record, at: index)
        }
    }
}
