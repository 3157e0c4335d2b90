// A library that is preloaded into an agent and writes down, in one ordered journal, everything
// that the agent does to the files of one folder: every write, truncation, zeroing, sync, creation,
// rename, link and removal, of images, catalog and repositories alike.
//
// It takes the place of the C library's calls, which Swift, SQLite and all else go through, so
// nothing has to be changed in what is tested, and nothing can pass it by but a mapping of memory:
// SQLite's `-shm` file, which it makes anew after a crash.
//
// A sync is written down and not carried out: what it promised is for the simulation of a power
// loss to keep. The agent's threads take turns in here, so that the order of the journal is the
// order in which things happened.
//
// TIDEMARK_JOURNAL       the journal, appended to; other processes may append notes
// TIDEMARK_JOURNAL_ROOT  the folder, as `realpath` has it
// TIDEMARK_JOURNAL_GATES a file with the gates, by which single operations can be held up, failed
//                        or torn
// TIDEMARK_JOURNAL_BOOT_ID a file that stands for the kernel's name of the present boot: with
//                        another content the host has been down. Works without a journal too.
#pragma once

#include <stdint.h>

// What a record says. Paths are absolute.
enum file_journal_kind {
    // Data at `offset` of the file `inode`; without a payload, `length` zeroes.
    FILE_JOURNAL_WRITE = 1,
    // The file is `length` bytes long from now on.
    FILE_JOURNAL_TRUNCATE = 2,
    // `length` bytes at `offset` read as zeroes; the file grows no longer by it.
    FILE_JOURNAL_ZERO = 3,
    // The file is at least `offset` + `length` bytes long.
    FILE_JOURNAL_ALLOCATE = 4,
    // What was written to the file before is durable.
    FILE_JOURNAL_SYNC = 5,
    // The file `inode` is new, and `path` names it.
    FILE_JOURNAL_CREATE = 6,
    // The directory `path` is new.
    FILE_JOURNAL_MAKE_DIRECTORY = 7,
    // `path` names nothing any more.
    FILE_JOURNAL_REMOVE = 8,
    // `path` got the name that follows it after a zero byte.
    FILE_JOURNAL_RENAME = 9,
    // `path` got a second name, which follows it after a zero byte.
    FILE_JOURNAL_LINK = 10,
    // The names in the directory `path` are durable.
    FILE_JOURNAL_SYNC_DIRECTORY = 11,
    // Written by the test: its payload is a text.
    FILE_JOURNAL_NOTE = 12,
    // Never in a journal: a read, for gates.
    FILE_JOURNAL_READ = 13,
};

// A write that is durable when it returns.
#define FILE_JOURNAL_DURABLE 1

// The head of a record; `pathBytes` and then `payloadBytes` follow it. In the host's byte order.
struct file_journal_record {
    uint32_t kind;
    uint32_t flags;
    uint64_t inode;
    uint64_t offset;
    uint64_t length;
    // When it happened, in nanoseconds since 1970: of a change of content, as the file's own time
    // has it.
    int64_t nanoseconds;
    uint32_t pathBytes;
    uint32_t payloadBytes;
};

// What is done to the operation that a gate waits for.
enum file_journal_gate_action {
    FILE_JOURNAL_PASS = 0,
    // It waits until the action is another one, as do all that match after it.
    FILE_JOURNAL_HOLD = 1,
    // It waits until the action is another one; others pass.
    FILE_JOURNAL_HOLD_ONE = 2,
    // It fails with `error` and does nothing.
    FILE_JOURNAL_FAIL = 3,
    // Half of it is written, then it fails with `error`.
    FILE_JOURNAL_TEAR = 4,
};

// Memory shared with the test, which gets at single operations by it. `action` is set last.
struct file_journal_gate {
    uint32_t action;
    // The kinds that match: bit n for kind n.
    uint32_t kinds;
    // How many matching operations pass before it.
    int32_t countdown;
    int32_t error;
    // How many threads are held.
    uint32_t heldCount;
    // What a matching operation's path contains.
    char path[128];
};

// How many gates there are in the shared file, one after the other.
#define FILE_JOURNAL_GATES 2

static inline uint32_t file_journal_load(const uint32_t *word) {
    return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

static inline void file_journal_store(uint32_t *word, uint32_t value) {
    __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}
