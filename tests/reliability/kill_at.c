/* Preloaded into a process, it numbers everything that changes a file below a folder, and kills at one such point.

   KILL_UNDER   the folder (resolved); unset: nothing is watched
   KILL_LOG     a file outside of it that gets one line a point: op TAB path TAB second path or bytes
   KILL_KEY     "op TAB path, relative, with each run of digits as #": only such points count; empty: all do
   KILL_AT      which of them, from 1; 0: none
   KILL_HOW     before, middle (half of the bytes are written; else as after) or after
   KILL_SIGNAL  9 or 15
   KILL_GROUP   1: the whole process group gets it

   A forked child may call kill_at_again() after it has changed its environment. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { BEFORE, MIDDLE, AFTER };

static char under[PATH_MAX], key[PATH_MAX];
static size_t under_length;
static int log_fd = -1, how, signal_number, whole_group;
static long at;
static atomic_long met;

static const char *setting(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

__attribute__((constructor)) void kill_at_again(void) {
    snprintf(under, sizeof under, "%s", setting("KILL_UNDER"));
    snprintf(key, sizeof key, "%s", setting("KILL_KEY"));
    under_length = strlen(under);
    at = atol(setting("KILL_AT"));
    how = !strcmp(setting("KILL_HOW"), "before") ? BEFORE : !strcmp(setting("KILL_HOW"), "middle") ? MIDDLE : AFTER;
    signal_number = atoi(setting("KILL_SIGNAL"));
    whole_group = atoi(setting("KILL_GROUP"));
    atomic_store(&met, 0);
    if (log_fd >= 0) syscall(SYS_close, log_fd);
    log_fd = -1;
    if (under_length && *setting("KILL_LOG")) {
        int fd = syscall(SYS_openat, AT_FDCWD, setting("KILL_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        /* High up, where no program that counts on the lowest numbers meets it. */
        log_fd = fcntl(fd, F_DUPFD_CLOEXEC, 700);
        syscall(SYS_close, fd);
    }
}

static int below(const char *path) {
    return under_length && !strncmp(path, under, under_length) && (path[under_length] == '/' || !path[under_length]);
}

static int path_of_fd(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0;
}

static void path_of_name(int folder, const char *name, char *path) {
    char base[PATH_MAX] = "";
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
        return;
    }
    if (folder == AT_FDCWD) {
        if (syscall(SYS_getcwd, base, sizeof base) < 0) base[0] = 0;
    } else
        path_of_fd(folder, base);
    if (snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) path[0] = 0;
}

static int has_key(const char *op, const char *path) {
    if (!key[0]) return 1;
    char here[2 * PATH_MAX];
    size_t end = snprintf(here, sizeof here, "%s\t", op);
    for (const char *each = path + under_length; *each && end < sizeof here - 2; each++) {
        if (*each < '0' || *each > '9')
            here[end++] = *each;
        else if (here[end - 1] != '#')
            here[end++] = '#';
    }
    here[end] = 0;
    return !strcmp(here, key);
}

/* Notes a point; whether it is the one to kill at. */
static int meet(const char *op, const char *path, const char *rest) {
    if (log_fd >= 0) {
        char line[2 * PATH_MAX + 64];
        int length = snprintf(line, sizeof line, "%s\t%s\t%s\n", op, path, rest);
        syscall(SYS_write, log_fd, line, (size_t)length);
    }
    return at && has_key(op, path) && atomic_fetch_add(&met, 1) + 1 == at;
}

static void strike(void) {
    int before = errno;
    if (log_fd >= 0) {
        char line[64];
        syscall(SYS_write, log_fd, line, (size_t)snprintf(line, sizeof line, "killed\t%d\t\n", signal_number));
    }
    syscall(SYS_kill, whole_group ? 0 : (pid_t)syscall(SYS_getpid), signal_number);
    errno = before;
}

/* A point that is one act for the kernel: there is no middle of it. */
#define ACT(op, path, rest, call)                                  \
    do {                                                           \
        int here = below(path) && meet(op, path, rest);            \
        if (here && how == BEFORE) strike();                       \
        __typeof__(call) result = (call);                          \
        if (here && how != BEFORE) strike();                       \
        return result;                                             \
    } while (0)

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int meet_write(int fd, size_t bytes) {
    char path[PATH_MAX], size[32];
    if (!under_length || fd <= 2 || !path_of_fd(fd, path) || !below(path)) return 0;
    snprintf(size, sizeof size, "%zu", bytes);
    return meet("write", path, size);
}

#define WRITE(bytes, whole, half)                                  \
    do {                                                           \
        int here = meet_write(fd, bytes);                          \
        if (!here) return whole;                                   \
        if (how == BEFORE) strike();                               \
        if (how == MIDDLE && (bytes) > 1) {                        \
            ssize_t result = half;                                 \
            strike();                                              \
            return result;                                         \
        }                                                          \
        ssize_t result = whole;                                    \
        if (how != BEFORE) strike();                               \
        return result;                                             \
    } while (0)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    WRITE(size, real(fd, data, size), real(fd, data, size / 2));
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    REAL(pwrite);
    WRITE(size, real(fd, data, size, offset), real(fd, data, size / 2, offset));
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    REAL(pwrite64);
    WRITE(size, real(fd, data, size, offset), real(fd, data, size / 2, offset));
}

static size_t total(const struct iovec *parts, int count) {
    size_t bytes = 0;
    for (int each = 0; each < count; each++) bytes += parts[each].iov_len;
    return bytes;
}

static ssize_t write_half(int fd, const struct iovec *parts, int count) {
    size_t left = total(parts, count) / 2, done = 0;
    for (int each = 0; each < count && left; each++) {
        size_t size = parts[each].iov_len < left ? parts[each].iov_len : left;
        ssize_t written = syscall(SYS_write, fd, parts[each].iov_base, size);
        if (written < 0) return done ? (ssize_t)done : written;
        done += written, left -= written;
    }
    return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    WRITE(total(parts, count), real(fd, parts, count), write_half(fd, parts, count));
}

#define COPY(name, out, bytes, ...)                                        \
    REAL(name);                                                            \
    char path[PATH_MAX], size[32];                                         \
    if (!under_length || !path_of_fd(out, path)) return real(__VA_ARGS__); \
    snprintf(size, sizeof size, "%zu", bytes);                             \
    ACT("write", path, size, real(__VA_ARGS__))

#include <sys/sendfile.h>
ssize_t sendfile(int out, int in, off_t *offset, size_t bytes) { COPY(sendfile, out, bytes, out, in, offset, bytes); }
ssize_t sendfile64(int out, int in, off64_t *offset, size_t bytes) { COPY(sendfile64, out, bytes, out, in, offset, bytes); }
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t bytes, unsigned flags) {
    COPY(copy_file_range, out, bytes, in, from, out, to, bytes, flags);
}

#define OF_FD(op, name, ...)                                      \
    REAL(name);                                                   \
    char path[PATH_MAX];                                          \
    if (!under_length || !path_of_fd(fd, path)) return real(__VA_ARGS__); \
    ACT(op, path, "", real(__VA_ARGS__))

int fsync(int fd) { OF_FD("fsync", fsync, fd); }
int fdatasync(int fd) { OF_FD("fsync", fdatasync, fd); }
int ftruncate(int fd, off_t size) { OF_FD("truncate", ftruncate, fd, size); }
int ftruncate64(int fd, off64_t size) { OF_FD("truncate", ftruncate64, fd, size); }
int posix_fallocate(int fd, off_t offset, off_t size) { OF_FD("truncate", posix_fallocate, fd, offset, size); }
int fallocate(int fd, int mode, off_t offset, off_t size) { OF_FD("truncate", fallocate, fd, mode, offset, size); }

/* What is there already is not made, and what isn't there is not removed: no point then. */
static int changes(const char *op, const char *path) {
    return (syscall(SYS_faccessat, AT_FDCWD, path, F_OK) == 0) != !strcmp(op, "mkdir");
}

#define OF_NAME(op, folder, name, ...)                            \
    char path[PATH_MAX];                                          \
    if (!under_length) return real(__VA_ARGS__);                  \
    int before = errno;                                           \
    path_of_name(folder, name, path);                             \
    if (!changes(op, path)) return real(__VA_ARGS__);             \
    errno = before;                                               \
    ACT(op, path, "", real(__VA_ARGS__))

int unlink(const char *name) { REAL(unlink); OF_NAME("unlink", AT_FDCWD, name, name); }
int unlinkat(int folder, const char *name, int flags) { REAL(unlinkat); OF_NAME("unlink", folder, name, folder, name, flags); }
int remove(const char *name) { REAL(remove); OF_NAME("unlink", AT_FDCWD, name, name); }
int rmdir(const char *name) { REAL(rmdir); OF_NAME("unlink", AT_FDCWD, name, name); }
int mkdir(const char *name, mode_t mode) { REAL(mkdir); OF_NAME("mkdir", AT_FDCWD, name, name, mode); }
int mkdirat(int folder, const char *name, mode_t mode) { REAL(mkdirat); OF_NAME("mkdir", folder, name, folder, name, mode); }
int truncate(const char *name, off_t size) { REAL(truncate); OF_NAME("truncate", AT_FDCWD, name, name, size); }

/* The point of a rename or a link bears the new name: that is the one that appears. */
#define TWO(op, old_folder, old, new_folder, new, ...)            \
    char path[PATH_MAX], from[PATH_MAX];                          \
    if (!under_length) return real(__VA_ARGS__);                  \
    path_of_name(new_folder, new, path);                          \
    path_of_name(old_folder, old, from);                          \
    ACT(op, path, from, real(__VA_ARGS__))

int rename(const char *old, const char *new) { REAL(rename); TWO("rename", AT_FDCWD, old, AT_FDCWD, new, old, new); }
int renameat(int a, const char *old, int b, const char *new) { REAL(renameat); TWO("rename", a, old, b, new, a, old, b, new); }
int renameat2(int a, const char *old, int b, const char *new, unsigned flags) {
    REAL(renameat2);
    TWO("rename", a, old, b, new, a, old, b, new, flags);
}
int link(const char *old, const char *new) { REAL(link); TWO("link", AT_FDCWD, old, AT_FDCWD, new, old, new); }
int linkat(int a, const char *old, int b, const char *new, int flags) {
    REAL(linkat);
    TWO("link", a, old, b, new, a, old, b, new, flags);
}
int symlink(const char *old, const char *new) { REAL(symlink); TWO("link", AT_FDCWD, old, AT_FDCWD, new, old, new); }

/* Opening is a point where it makes or empties a file. */
#define OPEN(name, folder, ...)                                                \
    mode_t mode = 0;                                                           \
    if (flags & (O_CREAT | __O_TMPFILE)) {                                     \
        va_list rest;                                                          \
        va_start(rest, flags);                                                 \
        mode = va_arg(rest, mode_t);                                           \
        va_end(rest);                                                          \
    }                                                                          \
    if (!under_length || !(flags & (O_CREAT | O_TRUNC))) return real(__VA_ARGS__, flags, mode); \
    char path[PATH_MAX];                                                       \
    path_of_name(folder, name, path);                                          \
    ACT("create", path, "", real(__VA_ARGS__, flags, mode))

int open(const char *name, int flags, ...) { REAL(open); OPEN(name, AT_FDCWD, name); }
int open64(const char *name, int flags, ...) { REAL(open64); OPEN(name, AT_FDCWD, name); }
int openat(int folder, const char *name, int flags, ...) { REAL(openat); OPEN(name, folder, folder, name); }
int openat64(int folder, const char *name, int flags, ...) { REAL(openat64); OPEN(name, folder, folder, name); }
