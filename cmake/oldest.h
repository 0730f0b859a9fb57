// Force-included on Linux: binds symbols that newer C and C++ libraries version anew to the versions that the oldest
// systems with Node 20 have (glibc 2.28, libstdc++ of GCC 6), so that one prebuild serves them all. The old versions
// mean the same; only error reporting through errno and stack placement differ. No effect on symbols that are not used.
#pragma once
#if defined(__linux__)
#include <features.h>
#endif
#if defined(__linux__) && defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#if defined(__x86_64__)
#define WHITTLE_OLDEST "GLIBC_2.2.5"
#elif defined(__aarch64__)
#define WHITTLE_OLDEST "GLIBC_2.17"
#endif
#if defined(WHITTLE_OLDEST)
#define WHITTLE_BIND(symbol) __asm__(".symver " #symbol "," #symbol "@" WHITTLE_OLDEST)
WHITTLE_BIND(exp);
WHITTLE_BIND(hypot);
WHITTLE_BIND(log);
WHITTLE_BIND(log2);
WHITTLE_BIND(pow);
WHITTLE_BIND(pthread_create);
WHITTLE_BIND(pthread_detach);
WHITTLE_BIND(pthread_join);
WHITTLE_BIND(pthread_mutex_trylock);
WHITTLE_BIND(pthread_once);
WHITTLE_BIND(dladdr);
WHITTLE_BIND(dlclose);
WHITTLE_BIND(dlerror);
WHITTLE_BIND(dlopen);
WHITTLE_BIND(dlsym);
#undef WHITTLE_BIND
// std::condition_variable::wait
__asm__(
    ".symver _ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE,"
    "_ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE@GLIBCXX_3.4.11");
#endif
#endif
