#define _GNU_SOURCE
#include "journal.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define DESCRIPTORS_MAX 4096

struct tracked_file {
    uint64_t inode;
    bool isDirectory;
    char *path;
};

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static struct tracked_file files[DESCRIPTORS_MAX];
static char root[PATH_MAX];
static size_t rootBytes;
static int journal = -1;
static struct file_journal_gate *gates;
static const char *bootPath;
static ssize_t (*originalWritev)(int, const struct iovec *, int);

static void die(const char *what) {
    perror(what);
    abort();
}

void *journal_original(const char *name) {
    void *function = dlsym(RTLD_NEXT, name);
    if (!function) die(name);
    return function;
}

static int originalOpen(const char *path, int flags) {
    static int (*open)(const char *, int, ...);
    if (!open) open = journal_original("open");
    return open(path, flags, 0600);
}

__attribute__((constructor)) static void start(void) {
    bootPath = getenv("TIDEMARK_JOURNAL_BOOT_ID");
    const char *path = getenv("TIDEMARK_JOURNAL");
    const char *folder = getenv("TIDEMARK_JOURNAL_ROOT");
    const char *gatePath = getenv("TIDEMARK_JOURNAL_GATES");
    if (!path || !folder) return;
    originalWritev = journal_original("writev");
    rootBytes = strlen(folder);
    if (rootBytes >= sizeof root) die("the folder of the journal");
    strcpy(root, folder);
    if (gatePath) {
        int descriptor = originalOpen(gatePath, O_RDWR | O_CLOEXEC);
        if (descriptor < 0) die(gatePath);
        gates = mmap(
            NULL, FILE_JOURNAL_GATES * sizeof *gates, PROT_READ | PROT_WRITE, MAP_SHARED,
            descriptor, 0);
        if (gates == MAP_FAILED) die(gatePath);
        close(descriptor);
    }
    journal = originalOpen(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC);
    if (journal < 0) die(path);
}

bool journal_is_on(void) { return journal >= 0; }

const char *journal_boot_path(const char *path) {
    return bootPath && strcmp(path, "/proc/sys/kernel/random/boot_id") == 0 ? bootPath : path;
}

// Whether this thread is ending the process, and so has the turn for good.
static _Thread_local bool isEnding;

void journal_lock(void) {
    if (!isEnding) pthread_mutex_lock(&turn);
}

void journal_unlock(void) {
    if (!isEnding) pthread_mutex_unlock(&turn);
}

// So that the end of the process does not come between what another thread does and its record.
__attribute__((destructor)) static void end(void) {
    journal_lock();
    isEnding = true;
}

static bool isZero(const char *data, size_t count) {
    return count > 0 && data[0] == 0 && memcmp(data, data + 1, count - 1) == 0;
}

void journal_append(
    int descriptor, enum file_journal_kind kind, uint32_t flags, uint64_t inode, uint64_t offset, uint64_t length,
    const char *path, const char *other, const void *data, size_t dataBytes) {
    if (data && isZero(data, dataBytes)) {
        length = dataBytes;
        data = NULL;
    }
    if (!data) dataBytes = 0;
    struct timespec now;
    struct stat status;
    if (descriptor >= 0 && fstat(descriptor, &status) == 0) {
        now = status.st_mtim;
    } else {
        clock_gettime(CLOCK_REALTIME, &now);
    }
    size_t pathBytes = path ? strlen(path) : 0;
    size_t otherBytes = other ? strlen(other) + 1 : 0;
    struct file_journal_record record = {
        .kind = kind,
        .flags = flags,
        .inode = inode,
        .offset = offset,
        .length = data ? dataBytes : length,
        .nanoseconds = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec,
        .pathBytes = pathBytes + otherBytes,
        .payloadBytes = dataBytes,
    };
    struct iovec parts[] = {
        {&record, sizeof record},
        {(void *)path, pathBytes},
        {"", otherBytes ? 1 : 0},
        {(void *)other, otherBytes ? otherBytes - 1 : 0},
        {(void *)data, dataBytes},
    };
    ssize_t total = sizeof record + pathBytes + otherBytes + dataBytes;
    if (originalWritev(journal, parts, sizeof parts / sizeof *parts) != total) die("the journal");
}

static bool isInside(const char *path) {
    // SQLite makes its index of the journal anew after a crash.
    size_t count = strlen(path);
    if (count > 4 && strcmp(path + count - 4, "-shm") == 0) return false;
    return strncmp(path, root, rootBytes) == 0 && (path[rootBytes] == '/' || !path[rootBytes]);
}

bool journal_path(int directory, const char *path, char *result) {
    char parent[PATH_MAX], resolved[PATH_MAX];
    if (path[0] == '/' || directory == AT_FDCWD) {
        if (strlen(path) >= sizeof parent) return false;
        strcpy(parent, path);
    } else if (snprintf(parent, sizeof parent, "/proc/self/fd/%d/%s", directory, path) >=
               (int)sizeof parent) {
        return false;
    }
    char *slash = strrchr(parent, '/');
    const char *name = slash ? slash + 1 : path;
    char nameCopy[NAME_MAX + 1];
    if (strlen(name) > NAME_MAX) return false;
    strcpy(nameCopy, name);
    if (slash) {
        slash[slash == parent] = 0;
    } else {
        strcpy(parent, ".");
    }
    if (!realpath(parent, resolved)) return false;
    if (snprintf(result, PATH_MAX, "%s/%s", resolved, nameCopy) >= PATH_MAX) return false;
    return isInside(result);
}

void journal_opened(int descriptor, bool isNew) {
    if (descriptor < 0 || journal < 0) return;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t count = readlink(link, path, sizeof path - 1);
    if (count < 0) return;
    path[count] = 0;
    if (!isInside(path)) return;
    struct stat status;
    if (fstat(descriptor, &status) < 0) return;
    bool isDirectory = S_ISDIR(status.st_mode);
    if (!isDirectory && !S_ISREG(status.st_mode)) return;
    if (descriptor >= DESCRIPTORS_MAX) die("a descriptor beyond what the journal can follow");
    free(files[descriptor].path);
    files[descriptor] = (struct tracked_file){status.st_ino, isDirectory, strdup(path)};
    if (isNew)
        journal_append(
            descriptor, FILE_JOURNAL_CREATE, 0, status.st_ino, 0, 0, path, NULL, NULL, 0);
}

void journal_closed(int descriptor) {
    if (descriptor < 0 || descriptor >= DESCRIPTORS_MAX || !files[descriptor].path) return;
    journal_lock();
    free(files[descriptor].path);
    files[descriptor] = (struct tracked_file){0};
    journal_unlock();
}

bool journal_file(int descriptor, uint64_t *inode, bool *isDirectory, const char **path) {
    if (journal < 0 || descriptor < 0 || descriptor >= DESCRIPTORS_MAX) return false;
    // The caller has the descriptor open, so that nobody changes its entry meanwhile.
    const struct tracked_file *file = &files[descriptor];
    if (!file->path) return false;
    *inode = file->inode;
    *isDirectory = file->isDirectory;
    *path = file->path;
    return true;
}

static enum file_journal_gate_action pass(
    struct file_journal_gate *gate, enum file_journal_kind kind, const char *path) {
    uint32_t action = file_journal_load(&gate->action);
    if (action == FILE_JOURNAL_PASS) return FILE_JOURNAL_PASS;
    if (!(gate->kinds & 1u << kind) || !strstr(path, gate->path)) return FILE_JOURNAL_PASS;
    int32_t countdown = __atomic_fetch_sub(&gate->countdown, 1, __ATOMIC_SEQ_CST);
    // Only HOLD is for those that come later too.
    if (countdown > 0 || (countdown < 0 && action != FILE_JOURNAL_HOLD)) return FILE_JOURNAL_PASS;
    if (action == FILE_JOURNAL_FAIL || action == FILE_JOURNAL_TEAR) {
        errno = gate->error;
        return action;
    }
    __atomic_fetch_add(&gate->heldCount, 1, __ATOMIC_SEQ_CST);
    struct timespec pause = {.tv_nsec = 100000};
    while (file_journal_load(&gate->action) == action) nanosleep(&pause, NULL);
    __atomic_fetch_sub(&gate->heldCount, 1, __ATOMIC_SEQ_CST);
    return FILE_JOURNAL_PASS;
}

enum file_journal_gate_action journal_gate(enum file_journal_kind kind, const char *path) {
    if (!gates) return FILE_JOURNAL_PASS;
    enum file_journal_gate_action fate = FILE_JOURNAL_PASS;
    for (int index = 0; index < FILE_JOURNAL_GATES; index++) {
        enum file_journal_gate_action one = pass(&gates[index], kind, path);
        if (one != FILE_JOURNAL_PASS) fate = one;
    }
    return fate;
}

bool journal_has_gate(enum file_journal_kind kind) {
    if (!gates) return false;
    for (int index = 0; index < FILE_JOURNAL_GATES; index++) {
        if (file_journal_load(&gates[index].action) != FILE_JOURNAL_PASS &&
            (gates[index].kinds & 1u << kind))
            return true;
    }
    return false;
}
