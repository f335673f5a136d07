/* Preloaded into a server: wall-clock time is that of the machine and as many microseconds more as the file SHIFTED_BY holds
 * now, as one number of 8 bytes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *shift;
static int (*ask)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
	ask = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	int file = open(getenv("SHIFTED_BY"), O_RDONLY | O_CLOEXEC);
	void *mapped = mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
	if (file < 0 || mapped == MAP_FAILED)
		abort();
	close(file);
	shift = mapped;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
	if (shift == NULL)
		begin();
	int failed = ask(clock, time);
	if (failed != 0 || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE))
		return failed;
	int64_t micros = time->tv_sec * INT64_C(1000000) + time->tv_nsec / 1000 + *shift;
	time->tv_sec = micros / 1000000;
	time->tv_nsec = micros % 1000000 * 1000;
	return 0;
}
