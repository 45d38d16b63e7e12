/* The instruction sets of this CPU. `prune_level_base` runs on any; a library has `prune_level_v4` if it has the kernels
 * for v4. */
#include "common.h"

#if defined(_MSC_VER) && (defined(_M_X64) || defined(_M_IX86))
#include <intrin.h>
#include <immintrin.h>
#endif

/* 0: the baseline. 3: x86-64-v3 (AVX2, BMI, FMA, F16C). 4: x86-64-v4 (AVX-512 F, BW, CD, DQ, VL). */
EXPORT int32_t KERNEL(prune_level)(void) {
#if defined(__GNUC__) && defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi") ||
        !__builtin_cpu_supports("bmi2")) {
        return 0;
    }
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        return 4;
    }
    return 3;
#elif defined(_MSC_VER) && defined(_M_X64)
    int leaf[4];
    __cpuid(leaf, 1);
    if ((leaf[2] & ((1 << 12) | (1 << 27) | (1 << 28))) != ((1 << 12) | (1 << 27) | (1 << 28))) {
        return 0; /* FMA, OSXSAVE, AVX */
    }
    uint64_t saved = _xgetbv(0);
    __cpuidex(leaf, 7, 0);
    if ((saved & 6) != 6 || (leaf[1] & ((1 << 5) | (1 << 8))) != ((1 << 5) | (1 << 8))) {
        return 0; /* AVX2, BMI2 */
    }
    const int v4 = (1 << 16) | (1 << 17) | (1 << 28) | (1 << 30) | (int)(1u << 31);
    return (saved & 0xe6) == 0xe6 && (leaf[1] & v4) == v4 ? 4 : 3;
#else
    return 0;
#endif
}
