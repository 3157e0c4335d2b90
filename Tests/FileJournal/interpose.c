// The C library's calls that change files, each with its entry in the journal.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "journal.h"

// Declares `original` as the C library's own function by that name.
#define ORIGINAL(result, name, ...)                                        \
    static result (*original)(__VA_ARGS__);                                \
    if (!original) original = (result(*)(__VA_ARGS__))journal_original(name)

// Opening

static int openRecorded(
    int (*original)(int, const char *, int, ...), int directory, const char *path, int flags,
    mode_t mode) {
    path = journal_boot_path(path);
    // Only what may change something has to take its turn: others may wait for long in here.
    bool mayChange = journal_is_on() && (flags & (O_CREAT | O_TRUNC));
    char canonical[PATH_MAX];
    bool isInside = mayChange && journal_path(directory, path, canonical);
    if (isInside && (flags & O_CREAT) &&
        journal_gate(FILE_JOURNAL_CREATE, canonical) != FILE_JOURNAL_PASS)
        return -1;
    if (isInside) journal_lock();
    bool isNew = isInside && (flags & O_CREAT) &&
                 faccessat(directory, path, F_OK, AT_SYMLINK_NOFOLLOW) != 0;
    int descriptor = original(directory, path, flags, mode);
    int error = errno;
    if (!isInside) journal_lock();
    journal_opened(descriptor, isNew);
    uint64_t inode;
    bool isDirectory;
    const char *known;
    if (isInside && !isNew && (flags & O_TRUNC) &&
        journal_file(descriptor, &inode, &isDirectory, &known))
        journal_append(
            descriptor, FILE_JOURNAL_TRUNCATE, 0, inode, 0, 0, known, NULL, NULL, 0);
    journal_unlock();
    errno = error;
    return descriptor;
}

#define OPENAT(name)                                                             \
    int name(int directory, const char *path, int flags, ...) {                  \
        mode_t mode = 0;                                                         \
        if (flags & (O_CREAT | __O_TMPFILE)) {                                   \
            va_list arguments;                                                   \
            va_start(arguments, flags);                                          \
            mode = va_arg(arguments, mode_t);                                    \
            va_end(arguments);                                                   \
        }                                                                        \
        ORIGINAL(int, "openat", int, const char *, int, ...);                    \
        return openRecorded(original, directory, path, flags, mode);             \
    }

#define OPEN(name)                                                               \
    int name(const char *path, int flags, ...) {                                 \
        mode_t mode = 0;                                                         \
        if (flags & (O_CREAT | __O_TMPFILE)) {                                   \
            va_list arguments;                                                   \
            va_start(arguments, flags);                                          \
            mode = va_arg(arguments, mode_t);                                    \
            va_end(arguments);                                                   \
        }                                                                        \
        ORIGINAL(int, "openat", int, const char *, int, ...);                    \
        return openRecorded(original, AT_FDCWD, path, flags, mode);              \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

int mkstemp(char *template) {
    ORIGINAL(int, "mkstemp", char *);
    journal_lock();
    int descriptor = original(template);
    int error = errno;
    journal_opened(descriptor, true);
    journal_unlock();
    errno = error;
    return descriptor;
}

int close(int descriptor) {
    ORIGINAL(int, "close", int);
    journal_closed(descriptor);
    return original(descriptor);
}

// Content

// What has been done to a file: whether to go on, and what to write down.
struct operation {
    int descriptor;
    uint64_t inode;
    const char *path;
    enum file_journal_gate_action fate;
};

// False if the descriptor is none of the journal's. Else the operation has passed the gate, and
// unless it is to fail, the lock is held.
static bool begin(int descriptor, enum file_journal_kind kind, struct operation *operation) {
    bool isDirectory;
    operation->descriptor = descriptor;
    if (!journal_file(descriptor, &operation->inode, &isDirectory, &operation->path)) return false;
    operation->fate = journal_gate(kind, operation->path);
    if (operation->fate != FILE_JOURNAL_FAIL) journal_lock();
    return true;
}

static void end(
    const struct operation *operation, enum file_journal_kind kind, uint32_t flags,
    uint64_t offset, uint64_t length, const void *data, bool isDone) {
    int error = errno;
    if (isDone)
        journal_append(
            operation->descriptor, kind, flags, operation->inode, offset, length, operation->path, NULL, data,
            data ? length : 0);
    journal_unlock();
    errno = error;
}

static ssize_t writeRecorded(int descriptor, const void *data, size_t count, int64_t offset, int flags) {
    ORIGINAL(ssize_t, "pwritev2", int, const struct iovec *, int, off_t, int);
    struct iovec vector = {.iov_base = (void *)data, .iov_len = count};
    struct operation operation;
    if (!begin(descriptor, FILE_JOURNAL_WRITE, &operation))
        return original(descriptor, &vector, 1, offset, flags);
    if (operation.fate == FILE_JOURNAL_FAIL) return -1;
    int fatal = errno;
    if (operation.fate == FILE_JOURNAL_TEAR) vector.iov_len = count / 2 & ~(size_t)511;
    if (offset < 0) offset = lseek(descriptor, 0, SEEK_CUR);
    ssize_t done =
        vector.iov_len ? original(descriptor, &vector, 1, offset, flags & ~RWF_DSYNC) : 0;
    end(&operation, FILE_JOURNAL_WRITE, flags & RWF_DSYNC ? FILE_JOURNAL_DURABLE : 0, offset,
        done > 0 ? done : 0, data, done > 0);
    if (operation.fate != FILE_JOURNAL_TEAR) return done;
    errno = fatal;
    return -1;
}

ssize_t pwrite(int descriptor, const void *data, size_t count, off_t offset) {
    return writeRecorded(descriptor, data, count, offset, 0);
}

ssize_t pwrite64(int descriptor, const void *data, size_t count, off64_t offset) {
    return writeRecorded(descriptor, data, count, offset, 0);
}

ssize_t write(int descriptor, const void *data, size_t count) {
    ORIGINAL(ssize_t, "write", int, const void *, size_t);
    uint64_t inode;
    bool isDirectory;
    const char *path;
    if (!journal_file(descriptor, &inode, &isDirectory, &path))
        return original(descriptor, data, count);
    ssize_t done = writeRecorded(descriptor, data, count, -1, 0);
    if (done > 0) lseek(descriptor, done, SEEK_CUR);
    return done;
}

// Scattered data is written in one record a piece. A single call with flags is what makes a durable
// write, of one piece.
static ssize_t writeScattered(
    int descriptor, const struct iovec *pieces, int count, int64_t offset, int flags) {
    ORIGINAL(ssize_t, "pwritev2", int, const struct iovec *, int, off_t, int);
    uint64_t inode;
    bool isDirectory;
    const char *path;
    if (!journal_file(descriptor, &inode, &isDirectory, &path))
        return original(descriptor, pieces, count, offset, flags);
    ssize_t total = 0;
    for (int index = 0; index < count; index++) {
        const struct iovec *piece = &pieces[index];
        if (piece->iov_len == 0) continue;
        ssize_t done = writeRecorded(
            descriptor, piece->iov_base, piece->iov_len, offset < 0 ? -1 : offset + total, flags);
        if (done < 0) return total > 0 ? total : done;
        if (offset < 0) lseek(descriptor, done, SEEK_CUR);
        total += done;
        if ((size_t)done < piece->iov_len) break;
    }
    return total;
}

ssize_t writev(int descriptor, const struct iovec *pieces, int count) {
    ORIGINAL(ssize_t, "writev", int, const struct iovec *, int);
    uint64_t inode;
    bool isDirectory;
    const char *path;
    if (!journal_file(descriptor, &inode, &isDirectory, &path))
        return original(descriptor, pieces, count);
    return writeScattered(descriptor, pieces, count, -1, 0);
}

ssize_t pwritev(int descriptor, const struct iovec *pieces, int count, off_t offset) {
    return writeScattered(descriptor, pieces, count, offset, 0);
}

ssize_t pwritev64(int descriptor, const struct iovec *pieces, int count, off64_t offset) {
    return writeScattered(descriptor, pieces, count, offset, 0);
}

ssize_t pwritev2(int descriptor, const struct iovec *pieces, int count, off_t offset, int flags) {
    return writeScattered(descriptor, pieces, count, offset, flags);
}

ssize_t pwritev64v2(
    int descriptor, const struct iovec *pieces, int count, off64_t offset, int flags) {
    return writeScattered(descriptor, pieces, count, offset, flags);
}

// Reads are not written down, but a gate may hold them. One that must not wait is refused instead.
static bool meetsReadGate(int descriptor, const char **path) {
    uint64_t inode;
    bool isDirectory;
    return journal_has_gate(FILE_JOURNAL_READ) &&
           journal_file(descriptor, &inode, &isDirectory, path);
}

static ssize_t readGated(int descriptor, void *data, size_t count, int64_t offset) {
    ORIGINAL(ssize_t, "pread", int, void *, size_t, off_t);
    const char *path;
    if (meetsReadGate(descriptor, &path) &&
        journal_gate(FILE_JOURNAL_READ, path) != FILE_JOURNAL_PASS)
        return -1;
    return original(descriptor, data, count, offset);
}

ssize_t pread(int descriptor, void *data, size_t count, off_t offset) {
    return readGated(descriptor, data, count, offset);
}

ssize_t pread64(int descriptor, void *data, size_t count, off64_t offset) {
    return readGated(descriptor, data, count, offset);
}

ssize_t preadv2(int descriptor, const struct iovec *pieces, int count, off_t offset, int flags) {
    ORIGINAL(ssize_t, "preadv2", int, const struct iovec *, int, off_t, int);
    const char *path;
    if ((flags & RWF_NOWAIT) && meetsReadGate(descriptor, &path)) {
        errno = EAGAIN;
        return -1;
    }
    return original(descriptor, pieces, count, offset, flags);
}

static int truncateRecorded(int descriptor, off_t length) {
    ORIGINAL(int, "ftruncate", int, off_t);
    struct operation operation;
    if (!begin(descriptor, FILE_JOURNAL_TRUNCATE, &operation)) return original(descriptor, length);
    if (operation.fate == FILE_JOURNAL_FAIL) return -1;
    int result = original(descriptor, length);
    end(&operation, FILE_JOURNAL_TRUNCATE, 0, 0, length, NULL, result == 0);
    return result;
}

int ftruncate(int descriptor, off_t length) { return truncateRecorded(descriptor, length); }

int ftruncate64(int descriptor, off64_t length) { return truncateRecorded(descriptor, length); }

static int allocateRecorded(int descriptor, int mode, off_t offset, off_t length) {
    ORIGINAL(int, "fallocate", int, int, off_t, off_t);
    struct operation operation;
    enum file_journal_kind kind = mode == 0 ? FILE_JOURNAL_ALLOCATE : FILE_JOURNAL_ZERO;
    if (!begin(descriptor, kind, &operation)) return original(descriptor, mode, offset, length);
    if (operation.fate == FILE_JOURNAL_FAIL) return -1;
    int result = original(descriptor, mode, offset, length);
    end(&operation, kind, 0, offset, length, NULL, result == 0);
    return result;
}

int fallocate(int descriptor, int mode, off_t offset, off_t length) {
    return allocateRecorded(descriptor, mode, offset, length);
}

int fallocate64(int descriptor, int mode, off64_t offset, off64_t length) {
    return allocateRecorded(descriptor, mode, offset, length);
}

static int syncRecorded(int descriptor, int (*original)(int)) {
    uint64_t inode;
    bool isDirectory;
    const char *path;
    if (!journal_file(descriptor, &inode, &isDirectory, &path)) return original(descriptor);
    enum file_journal_kind kind = isDirectory ? FILE_JOURNAL_SYNC_DIRECTORY : FILE_JOURNAL_SYNC;
    if (journal_gate(kind, path) != FILE_JOURNAL_PASS) return -1;
    journal_lock();
    journal_append(-1, kind, 0, inode, 0, 0, path, NULL, NULL, 0);
    journal_unlock();
    return 0;
}

int fsync(int descriptor) {
    ORIGINAL(int, "fsync", int);
    return syncRecorded(descriptor, original);
}

int fdatasync(int descriptor) {
    ORIGINAL(int, "fdatasync", int);
    return syncRecorded(descriptor, original);
}

// Names

static int removeRecorded(int directory, const char *path, int flags) {
    ORIGINAL(int, "unlinkat", int, const char *, int);
    char canonical[PATH_MAX];
    if (!journal_is_on() || !journal_path(directory, path, canonical))
        return original(directory, path, flags);
    if (journal_gate(FILE_JOURNAL_REMOVE, canonical) != FILE_JOURNAL_PASS) return -1;
    journal_lock();
    int result = original(directory, path, flags);
    int error = errno;
    if (result == 0)
        journal_append(-1, FILE_JOURNAL_REMOVE, 0, 0, 0, 0, canonical, NULL, NULL, 0);
    journal_unlock();
    errno = error;
    return result;
}

int unlink(const char *path) { return removeRecorded(AT_FDCWD, path, 0); }

int unlinkat(int directory, const char *path, int flags) {
    return removeRecorded(directory, path, flags);
}

int rmdir(const char *path) { return removeRecorded(AT_FDCWD, path, AT_REMOVEDIR); }

static int makeDirectoryRecorded(int directory, const char *path, mode_t mode) {
    ORIGINAL(int, "mkdirat", int, const char *, mode_t);
    char canonical[PATH_MAX];
    if (!journal_is_on() || !journal_path(directory, path, canonical))
        return original(directory, path, mode);
    if (journal_gate(FILE_JOURNAL_MAKE_DIRECTORY, canonical) != FILE_JOURNAL_PASS) return -1;
    journal_lock();
    int result = original(directory, path, mode);
    int error = errno;
    if (result == 0)
        journal_append(-1, FILE_JOURNAL_MAKE_DIRECTORY, 0, 0, 0, 0, canonical, NULL, NULL, 0);
    journal_unlock();
    errno = error;
    return result;
}

int mkdir(const char *path, mode_t mode) { return makeDirectoryRecorded(AT_FDCWD, path, mode); }

int mkdirat(int directory, const char *path, mode_t mode) {
    return makeDirectoryRecorded(directory, path, mode);
}

static int renameRecorded(
    int oldDirectory, const char *old, int newDirectory, const char *new, unsigned flags) {
    ORIGINAL(int, "renameat2", int, const char *, int, const char *, unsigned);
    char from[PATH_MAX], to[PATH_MAX];
    if (!journal_is_on() || !journal_path(oldDirectory, old, from) ||
        !journal_path(newDirectory, new, to))
        return original(oldDirectory, old, newDirectory, new, flags);
    if (journal_gate(FILE_JOURNAL_RENAME, to) != FILE_JOURNAL_PASS) return -1;
    journal_lock();
    int result = original(oldDirectory, old, newDirectory, new, flags);
    int error = errno;
    if (result == 0) journal_append(-1, FILE_JOURNAL_RENAME, 0, 0, 0, 0, from, to, NULL, 0);
    journal_unlock();
    errno = error;
    return result;
}

int rename(const char *old, const char *new) {
    return renameRecorded(AT_FDCWD, old, AT_FDCWD, new, 0);
}

int renameat(int oldDirectory, const char *old, int newDirectory, const char *new) {
    return renameRecorded(oldDirectory, old, newDirectory, new, 0);
}

int renameat2(
    int oldDirectory, const char *old, int newDirectory, const char *new, unsigned flags) {
    return renameRecorded(oldDirectory, old, newDirectory, new, flags);
}

int link(const char *old, const char *new) {
    ORIGINAL(int, "link", const char *, const char *);
    char from[PATH_MAX], to[PATH_MAX];
    if (!journal_is_on() || !journal_path(AT_FDCWD, old, from) ||
        !journal_path(AT_FDCWD, new, to))
        return original(old, new);
    if (journal_gate(FILE_JOURNAL_LINK, to) != FILE_JOURNAL_PASS) return -1;
    journal_lock();
    int result = original(old, new);
    int error = errno;
    if (result == 0) journal_append(-1, FILE_JOURNAL_LINK, 0, 0, 0, 0, from, to, NULL, 0);
    journal_unlock();
    errno = error;
    return result;
}
