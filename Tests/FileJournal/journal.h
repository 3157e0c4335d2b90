// What the calls of `interpose.c` need of `journal.c`.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "../CFileJournal/filejournal.h"

// Whether there is a journal to write.
bool journal_is_on(void);

// The file to open for `path`: another one for the kernel's name of the present boot.
const char *journal_boot_path(const char *path);

void journal_lock(void);
void journal_unlock(void);

// Appends a record. `other` is the second path, or null; `data` the payload, or null. The time is
// that of the last change of `descriptor`, or the present one for -1.
void journal_append(
    int descriptor, enum file_journal_kind kind, uint32_t flags, uint64_t inode, uint64_t offset, uint64_t length,
    const char *path, const char *other, const void *data, size_t dataBytes);

// Writes the canonical form of `path` to `result`, of PATH_MAX bytes. False if it is not in the
// folder of the journal.
bool journal_path(int directory, const char *path, char *result);

// Notes that `descriptor` was opened. Call it with the lock held.
void journal_opened(int descriptor, bool isNew);

// Forgets `descriptor`.
void journal_closed(int descriptor);

// The file of `descriptor`: false if it is not in the folder of the journal.
bool journal_file(int descriptor, uint64_t *inode, bool *isDirectory, const char **path);

// Lets an operation pass the gate, which may take time. Returns what is to become of it: PASS, or
// FAIL or TEAR with `errno` set. Call it without the lock.
enum file_journal_gate_action journal_gate(enum file_journal_kind kind, const char *path);

// Whether a gate waits for operations of that kind.
bool journal_has_gate(enum file_journal_kind kind);

// The C library's own function of that name.
void *journal_original(const char *name);
