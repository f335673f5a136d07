// A disk that fails once, for a process that is started with this as LD_PRELOAD: below SQLite, above the kernel.
//
//   FAULTY_FILES  what the path of a file begins with that is looked at
//   FAULTY_AT     which of all writes, syncs and truncations of such files fails, the first numbered 1; 0: none
//   FAULTY_HOW    eio: it fails, once. enospc: it and the next three that need room fail. exit: some of its sectors are
//                 written, and the process is gone
//   FAULTY_TOLD   made when it happens, and says what failed, as in `pwrite`; with .count behind its name, how many there
//                 were, when the process ends in order

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static const char *files, *how, *told;
static long at;
static atomic_long count;
static atomic_int lacking_room;

__attribute__((constructor)) static void begin(void) {
    files = getenv("FAULTY_FILES");
    how = getenv("FAULTY_HOW");
    told = getenv("FAULTY_TOLD");
    const char *number = getenv("FAULTY_AT");
    at = number ? atol(number) : 0;
}

__attribute__((destructor)) static void end(void) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s.count", told ? told : "");
    FILE *file = told ? fopen(path, "w") : NULL;
    if (file) {
        fprintf(file, "%ld", atomic_load(&count));
        fclose(file);
    }
}

static int looked_at(int fd) {
    char link[64], path[PATH_MAX];
    if (!files) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strncmp(path, files, strlen(files)) == 0;
}

// 0: nothing happens. 1: it fails, with errno set. 2: the process ends, once half of it is written.
static int strikes(const char *what, int fd, int needs_room) {
    if (!looked_at(fd)) return 0;
    int now = atomic_fetch_add(&count, 1) + 1 == at, full = strcmp(how, "enospc") == 0;
    if (now && full) atomic_store(&lacking_room, 4);
    int lacks = full && needs_room && atomic_fetch_sub(&lacking_room, 1) > 0;
    if (full ? !lacks : !now) return 0;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s.new", told ? told : "");
    FILE *file = told ? fopen(path, "w") : NULL;
    if (file) {
        fputs(what, file);
        fclose(file);
        rename(path, told);
    }
    if (strcmp(how, "exit") == 0) return 2;
    errno = full ? ENOSPC : EIO;
    return 1;
}

// Sectors are written or not; half of them here.
#define SOME(size) ((size) / 1024 * 512)
#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))
#define GUARD(fd, needs_room, half)             \
    switch (strikes(__func__, fd, needs_room)) { \
    case 1: return -1;                          \
    case 2: half; _exit(137);                   \
    }

ssize_t write(int fd, const void *bytes, size_t size) {
    GUARD(fd, 1, REAL(write)(fd, bytes, SOME(size)));
    return REAL(write)(fd, bytes, size);
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t place) {
    GUARD(fd, 1, REAL(pwrite)(fd, bytes, SOME(size), place));
    return REAL(pwrite)(fd, bytes, size, place);
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t place) {
    GUARD(fd, 1, REAL(pwrite64)(fd, bytes, SOME(size), place));
    return REAL(pwrite64)(fd, bytes, size, place);
}

int ftruncate(int fd, off_t size) {
    GUARD(fd, 1, (void)0);
    return REAL(ftruncate)(fd, size);
}

int ftruncate64(int fd, off64_t size) {
    GUARD(fd, 1, (void)0);
    return REAL(ftruncate64)(fd, size);
}

int fsync(int fd) {
    GUARD(fd, 0, (void)0);
    return REAL(fsync)(fd);
}

int fdatasync(int fd) {
    GUARD(fd, 0, (void)0);
    return REAL(fdatasync)(fd);
}
