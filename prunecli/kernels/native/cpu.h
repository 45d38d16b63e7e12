/* What this CPU has. It is asked directly: what `__builtin_cpu_supports` asks is not in the runtime library of each
 * clang. X86_64 is defined where `ask` is. */
#ifndef PRUNECLI_CPU_H
#define PRUNECLI_CPU_H

#include "common.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#define X86_64 1

static inline void ask(uint32_t leaf, uint32_t *found) {
    __cpuid_count(leaf, 0, found[0], found[1], found[2], found[3]);
}
#elif defined(_MSC_VER) && defined(_M_X64)
#include <intrin.h>
#define X86_64 1

static inline void ask(uint32_t leaf, uint32_t *found) {
    __cpuidex((int *)found, (int)leaf, 0);
}
#endif

#endif
