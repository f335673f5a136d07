/* Preloaded into a server: what it does to files below RECORD_BELOW is written to RECORD_TO, in order, each before it is
 * done, and each sync once it is over. A record is `struct head`, the path, the data. A file is known by the path it has at
 * that moment, so that what is done to one that is deleted is not told; nor is memory that SQLite shares through a file.
 * Instead of record RECORD_KILL_AT the process is killed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE, SIZE, SYNC, FILE_MADE, FOLDER_MADE, GONE, MOVED };

struct head {
	uint32_t what, path_bytes;
	/* Where it is written, how long the file becomes, or how many records the sync covers. */
	uint64_t number, data_bytes;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static uint64_t records;

#define REAL(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))

/* Whether a path is one of those that are told. */
static int below(const char *path) {
	const char *folder = getenv("RECORD_BELOW");
	return strncmp(path, folder, strlen(folder)) == 0 && !strstr(path, "-shm") && !strstr(path, " (deleted)");
}

/* The path of an open file. */
static const char *path_of(int file, char *path, size_t size) {
	char link[64];
	snprintf(link, sizeof link, "/proc/self/fd/%d", file);
	ssize_t bytes = readlink(link, path, size - 1);
	path[bytes < 0 ? 0 : bytes] = 0;
	return path;
}

/* Writes a record, with the mutex held. */
static void tell(uint32_t what, const char *path, uint64_t number, const void *data, size_t bytes) {
	static int to = -1;
	int before = errno;
	const char *kill_at = getenv("RECORD_KILL_AT");
	/* There are notes, even if there is nothing in them. */
	if (to < 0)
		to = REAL(int, open, const char *, int, ...)(getenv("RECORD_TO"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (kill_at && records == strtoull(kill_at, NULL, 10))
		for (;;)
			kill(getpid(), SIGKILL);
	struct head head = {what, strlen(path), number, bytes};
	struct iovec parts[] = {{&head, sizeof head}, {(void *)path, head.path_bytes}, {(void *)data, bytes}};
	if (REAL(ssize_t, writev, int, const struct iovec *, int)(to, parts, 3) != (ssize_t)(sizeof head + head.path_bytes + bytes))
		abort();
	records++;
	errno = before;
}

/* The result of `act`, told before as `...` if this is about one of the files. */
#define TOLD(type, path, act, ...)            \
	({                                        \
		pthread_mutex_lock(&mutex);           \
		if (below(path))                      \
			tell(__VA_ARGS__);                \
		type result_ = act;                   \
		pthread_mutex_unlock(&mutex);         \
		result_;                              \
	})

static int opened(const char *name, const char *path, int flags, mode_t mode) {
	int (*real)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, name);
	if (!below(path) || !(flags & (O_CREAT | O_TRUNC)))
		return real(path, flags, mode);
	pthread_mutex_lock(&mutex);
	struct stat found;
	if (stat(path, &found) != 0)
		tell(FILE_MADE, path, 0, NULL, 0);
	else if (flags & O_TRUNC)
		tell(SIZE, path, 0, NULL, 0);
	int file = real(path, flags, mode);
	pthread_mutex_unlock(&mutex);
	return file;
}

#define OPEN(name)                                    \
	int name(const char *path, int flags, ...) {      \
		va_list rest;                                 \
		va_start(rest, flags);                        \
		mode_t mode = va_arg(rest, unsigned);         \
		va_end(rest);                                 \
		return opened(#name, path, flags, mode);      \
	}
OPEN(open)
OPEN(open64)

ssize_t write(int file, const void *data, size_t bytes) {
	char path[4096];
	ssize_t (*real)(int, const void *, size_t) = REAL(ssize_t, write, int, const void *, size_t);
	if (!below(path_of(file, path, sizeof path)))
		return real(file, data, bytes);
	return TOLD(ssize_t, path, real(file, data, bytes), WRITE, path, lseek(file, 0, SEEK_CUR), data, bytes);
}

#define PWRITE(name)                                                                                                  \
	ssize_t name(int file, const void *data, size_t bytes, off_t at) {                                                \
		char path[4096];                                                                                              \
		ssize_t (*real)(int, const void *, size_t, off_t) = REAL(ssize_t, name, int, const void *, size_t, off_t);    \
		path_of(file, path, sizeof path);                                                                             \
		return TOLD(ssize_t, path, real(file, data, bytes, at), WRITE, path, at, data, bytes);                        \
	}
PWRITE(pwrite)
PWRITE(pwrite64)

#define TRUNCATE(name)                                                                    \
	int name(int file, off_t size) {                                                      \
		char path[4096];                                                                  \
		int (*real)(int, off_t) = REAL(int, name, int, off_t);                            \
		path_of(file, path, sizeof path);                                                 \
		return TOLD(int, path, real(file, size), SIZE, path, size, NULL, 0);              \
	}
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

#define SYNC_CALL(name)                                       \
	int name(int file) {                                      \
		char path[4096];                                      \
		pthread_mutex_lock(&mutex);                           \
		uint64_t covers = records;                            \
		pthread_mutex_unlock(&mutex);                         \
		int done = REAL(int, name, int)(file);                \
		path_of(file, path, sizeof path);                     \
		return TOLD(int, path, done, SYNC, path, covers, NULL, 0); \
	}
SYNC_CALL(fsync)
SYNC_CALL(fdatasync)

int mkdir(const char *path, mode_t mode) {
	struct stat found;
	int (*real)(const char *, mode_t) = REAL(int, mkdir, const char *, mode_t);
	char parent[4096];
	snprintf(parent, sizeof parent, "%s", path);
	char *slash = strrchr(parent, '/');
	if (slash)
		*slash = 0;
	/* Nothing is made where something is, or below nothing. */
	if (stat(path, &found) == 0 || stat(parent, &found) != 0)
		return real(path, mode);
	return TOLD(int, path, real(path, mode), FOLDER_MADE, path, 0, NULL, 0);
}

int unlink(const char *path) {
	struct stat found;
	int (*real)(const char *) = REAL(int, unlink, const char *);
	if (stat(path, &found) != 0)
		return real(path);
	return TOLD(int, path, real(path), GONE, path, 0, NULL, 0);
}

int rename(const char *from, const char *to) {
	int (*real)(const char *, const char *) = REAL(int, rename, const char *, const char *);
	return TOLD(int, from, real(from, to), MOVED, from, 0, to, strlen(to));
}
