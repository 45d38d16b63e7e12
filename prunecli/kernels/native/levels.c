/* The instruction sets of this CPU. `prune_level_base` runs on any; a library has `prune_level_v4` if it has the kernels
 * for v4. */
#include "cpu.h"

#ifdef X86_64
#ifdef _MSC_VER
#include <immintrin.h>

static uint32_t saved_registers(void) {
    return (uint32_t)_xgetbv(0);
}
#else
static uint32_t saved_registers(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}
#endif
#endif

#define BIT(n) ((uint32_t)1 << (n))
#define ALL(value, bits) (((value) & (bits)) == (bits))

/* 0: the baseline. 3: x86-64-v3 (AVX2, BMI, FMA, F16C). 4: x86-64-v4 (AVX-512 F, BW, CD, DQ, VL). */
EXPORT int32_t KERNEL(prune_level)(void) {
#ifdef X86_64
    uint32_t leaf[4];
    ask(0, leaf);
    if (leaf[0] < 7) {
        return 0;
    }
    ask(1, leaf);
    if (!ALL(leaf[2], BIT(12) | BIT(22) | BIT(27) | BIT(28) | BIT(29))) {
        return 0; /* FMA, MOVBE, OSXSAVE, AVX, F16C */
    }
    const uint32_t saved = saved_registers();
    ask(7, leaf);
    if (!ALL(saved, 0x06) || !ALL(leaf[1], BIT(3) | BIT(5) | BIT(8))) {
        return 0; /* BMI1, AVX2, BMI2 */
    }
    return ALL(saved, 0xe6) && ALL(leaf[1], BIT(16) | BIT(17) | BIT(28) | BIT(30) | BIT(31)) ? 4 : 3;
#else
    return 0;
#endif
}
