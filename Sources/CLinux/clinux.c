#define _GNU_SOURCE
#include "clinux.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/sockios.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

ssize_t clinux_pread_nowait(int fd, void *buffer, size_t length, int64_t offset) {
    struct iovec vector = {.iov_base = buffer, .iov_len = length};
    return preadv2(fd, &vector, 1, offset, RWF_NOWAIT);
}

ssize_t clinux_pwrite_durable(int fd, const void *buffer, size_t length, int64_t offset) {
    struct iovec vector = {.iov_base = (void *)buffer, .iov_len = length};
    return pwritev2(fd, &vector, 1, offset, RWF_DSYNC);
}

int clinux_punch_hole(int fd, int64_t offset, int64_t length) {
    return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
}

int clinux_zero_range(int fd, int64_t offset, int64_t length) {
    return fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length);
}

int clinux_allocate(int fd, int64_t offset, int64_t length) {
    return fallocate(fd, 0, offset, length);
}

int clinux_bypass_page_cache(int fd) {
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 ? -1 : fcntl(fd, F_SETFL, flags | O_DIRECT);
}

int64_t clinux_seek_data(int fd, int64_t offset) { return lseek(fd, offset, SEEK_DATA); }

int64_t clinux_seek_hole(int fd, int64_t offset) { return lseek(fd, offset, SEEK_HOLE); }

int clinux_start_writeback(int fd, int64_t offset, int64_t length) {
    return sync_file_range(fd, offset, length, SYNC_FILE_RANGE_WRITE);
}

int clinux_lock_file(int fd, bool exclusive) {
    struct flock lock;
    memset(&lock, 0, sizeof lock);
    lock.l_type = exclusive ? F_WRLCK : F_RDLCK;
    lock.l_whence = SEEK_SET;
    return fcntl(fd, F_OFD_SETLK, &lock);
}

static struct flock byte_lock(short type, int64_t offset) {
    struct flock lock;
    memset(&lock, 0, sizeof lock);
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_start = offset;
    lock.l_len = 1;
    return lock;
}

int clinux_lock_byte(int fd, int64_t offset) {
    struct flock lock = byte_lock(F_RDLCK, offset);
    return fcntl(fd, F_OFD_SETLK, &lock);
}

int clinux_unlock_byte(int fd, int64_t offset) {
    struct flock lock = byte_lock(F_UNLCK, offset);
    return fcntl(fd, F_OFD_SETLK, &lock);
}

int clinux_is_byte_locked(int fd, int64_t offset) {
    struct flock lock = byte_lock(F_WRLCK, offset);
    if (fcntl(fd, F_OFD_GETLK, &lock) < 0) return -1;
    return lock.l_type == F_UNLCK ? 0 : 1;
}

void clinux_set_thread_niceness(int niceness) {
    setpriority(PRIO_PROCESS, 0, niceness);
}

void clinux_name_thread(const char *name) {
    char shortened[16];
    strncpy(shortened, name, sizeof shortened - 1);
    shortened[sizeof shortened - 1] = 0;
    pthread_setname_np(pthread_self(), shortened);
}

static _Thread_local uintptr_t thread_pool;

uintptr_t clinux_thread_pool(void) { return thread_pool; }

void clinux_set_thread_pool(uintptr_t pool) { thread_pool = pool; }

int clinux_wait_readable(int fd, int timeout_milliseconds) {
    struct pollfd descriptor = {.fd = fd, .events = POLLIN};
    return poll(&descriptor, 1, timeout_milliseconds);
}

int clinux_event(void) { return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); }

int clinux_accept(int fd) { return accept4(fd, NULL, NULL, SOCK_CLOEXEC); }

int64_t clinux_size(int fd) {
    struct stat status;
    if (fstat(fd, &status) < 0) return -1;
    if (S_ISBLK(status.st_mode)) {
        uint64_t size = 0;
        if (ioctl(fd, BLKGETSIZE64, &size) < 0) return -1;
        return (int64_t)size;
    }
    return status.st_size;
}

void clinux_keep_access_time(int fd) {
    int flags = fcntl(fd, F_GETFL);
    if (flags >= 0) fcntl(fd, F_SETFL, flags | O_NOATIME);
}

void clinux_sleep_precisely(int64_t nanoseconds) {
    static _Thread_local bool has_slack = true;
    if (has_slack) {
        prctl(PR_SET_TIMERSLACK, 1UL);
        has_slack = false;
    }
    struct timespec time = {.tv_sec = nanoseconds / 1000000000, .tv_nsec = nanoseconds % 1000000000};
    nanosleep(&time, NULL);
}

int clinux_untaken_bytes(int fd) {
    int count = 0;
    return ioctl(fd, SIOCOUTQ, &count) == 0 ? count : -1;
}
