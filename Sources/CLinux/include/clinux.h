// System calls that Swift's Glibc module does not show, because they are Linux extensions.
// _GNU_SOURCE stays out of this header: defining it here clashes with the importer's own fd_set.
#ifndef CLINUX_H
#define CLINUX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/// preadv2 with RWF_NOWAIT: returns what the page cache holds, or -1 with EAGAIN.
ssize_t clinux_pread_nowait(int fd, void *buffer, size_t length, int64_t offset);

/// pwritev2 with RWF_DSYNC: returns when what it wrote is durable.
ssize_t clinux_pwrite_durable(int fd, const void *buffer, size_t length, int64_t offset);

/// fallocate(PUNCH_HOLE | KEEP_SIZE). Returns 0 or -1 with errno.
int clinux_punch_hole(int fd, int64_t offset, int64_t length);

/// fallocate(ZERO_RANGE | KEEP_SIZE). Returns 0 or -1 with errno.
int clinux_zero_range(int fd, int64_t offset, int64_t length);

/// fallocate with the default mode: allocates the range. Returns 0 or -1 with errno.
int clinux_allocate(int fd, int64_t offset, int64_t length);

/// Sets O_DIRECT on an open file. Returns 0 or -1 with errno.
int clinux_bypass_page_cache(int fd);

/// lseek(SEEK_DATA): the offset of the next data at or after `offset`, or -1 (ENXIO: none).
int64_t clinux_seek_data(int fd, int64_t offset);

/// lseek(SEEK_HOLE): the offset of the next hole at or after `offset`, or -1.
int64_t clinux_seek_hole(int fd, int64_t offset);

/// sync_file_range(SYNC_FILE_RANGE_WRITE): starts writing back dirty pages without waiting.
int clinux_start_writeback(int fd, int64_t offset, int64_t length);

/// Takes a whole-file open-file-description lock without waiting. Returns 0, or -1 with EAGAIN.
int clinux_lock_file(int fd, bool exclusive);

/// Shares an open-file-description lock on one byte without waiting. Returns 0 or -1 with errno.
int clinux_lock_byte(int fd, int64_t offset);

/// Gives such a lock up. Returns 0, or -1 with errno.
int clinux_unlock_byte(int fd, int64_t offset);

/// Whether another open file description has a lock of any kind on that byte: 1, 0, or -1 with
/// errno.
int clinux_is_byte_locked(int fd, int64_t offset);

/// Names the calling thread, as shown by top -H.
void clinux_name_thread(const char *name);

/// How much the calling thread yields to others, from 0 to 19; on Linux a thread has a niceness of
/// its own. Failure is silent.
void clinux_set_thread_niceness(int niceness);

/// A word of the calling thread that says which I/O pool it belongs to; 0 for none.
uintptr_t clinux_thread_pool(void);
void clinux_set_thread_pool(uintptr_t pool);

/// Waits until `fd` is readable. Returns 1, 0 on time-out, -1 with errno.
int clinux_wait_readable(int fd, int timeout_milliseconds);

/// eventfd, nonblocking: readable once 8 bytes were written to it, until they are read.
int clinux_event(void);

/// accept4 with SOCK_CLOEXEC: the descriptor of the next client, or -1 with errno.
int clinux_accept(int fd);

/// Sleeps for at least this long, and hardly longer: without the usual slack of 50 µs.
void clinux_sleep_precisely(int64_t nanoseconds);

/// The bytes sent on a stream socket that the peer has not taken yet, counted with what holding
/// them costs, or -1 with errno.
int clinux_untaken_bytes(int fd);

/// Has reading `fd` leave the time of last access alone, where the caller may ask for that.
void clinux_keep_access_time(int fd);

/// Maps `length` bytes of a file from `offset` for reading, beyond its end too. NULL if that cannot be
/// done, or if the file system of this kernel may show something else in a mapping than in a read.
void *clinux_map_for_reading(int fd, int64_t offset, size_t length);

/// Copies out of such a mapping. False, with anything in `destination`, if the file ends before or
/// its medium fails.
bool clinux_copy_mapped(void *destination, const void *source, size_t length);

/// Whether the page cache has all of a part of such a mapping, of up to 1 MiB, at the moment.
bool clinux_is_resident(void *base, size_t length);

/// The size in bytes of a regular file or block device, or -1 with errno.
int64_t clinux_size(int fd);

#endif
