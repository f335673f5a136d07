/* Preloaded into a server: every call that makes a file durable takes SLOW_FSYNC_MS longer, and is counted in the file
 * SLOW_FSYNC_COUNT (one byte each), so that a run can tell whether the delay was felt at all. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void slow(void) {
	static int count = -2;
	static long ms;
	if (count == -2) {
		const char *delay = getenv("SLOW_FSYNC_MS"), *path = getenv("SLOW_FSYNC_COUNT");
		ms = delay ? atol(delay) : 0;
		count = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
	}
	if (count >= 0 && write(count, "x", 1) != 1)
		abort();
	struct timespec time = {ms / 1000, ms % 1000 * 1000000L};
	while (nanosleep(&time, &time) != 0) {
	}
}

#define SLOW(name)                                                  \
	int name(int file) {                                            \
		int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, #name);   \
		slow();                                                     \
		return real(file);                                          \
	}
SLOW(fsync)
SLOW(fdatasync)
