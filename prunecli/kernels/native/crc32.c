/* CRC-32 (polynomial 0xEDB88320, bits reflected) by carry-less multiplication.
 *
 * Data is a polynomial over GF(2). A register of 128 bits stands for 16 bytes, and also for the same bytes at a later
 * place, once they are multiplied by the power of x of that distance, modulo the polynomial. So the data is folded into
 * 16 bytes with the same remainder, and any CRC-32 can finish them. See "Fast CRC Computation for Generic Polynomials
 * Using PCLMULQDQ Instruction" (Intel, 2009), whose constants these are.
 */
#include "cpu.h"

#ifdef X86_64
#include <immintrin.h>

#ifdef _MSC_VER
#define CARRY_LESS
#define WIDE
#else
#define CARRY_LESS __attribute__((target("pclmul,sse2")))
#define WIDE __attribute__((target("avx512f,vpclmulqdq")))
#endif

static int has_carry_less(void) {
    uint32_t leaf[4];
    ask(1, leaf);
    return leaf[2] >> 1 & 1;
}

/* Return `next` with `register_` added, which is moved to it by the distance of the two powers in `k`. */
CARRY_LESS static inline __m128i fold(__m128i register_, __m128i next, __m128i k) {
    const __m128i low = _mm_clmulepi64_si128(register_, k, 0x00), high = _mm_clmulepi64_si128(register_, k, 0x11);
    return _mm_xor_si128(next, _mm_xor_si128(low, high));
}

CARRY_LESS static inline __m128i load(const uint8_t *data) { return _mm_loadu_si128((const __m128i *)(const void *)data); }

CARRY_LESS static int64_t fold_all(const uint8_t *data, int64_t count, uint32_t value, uint8_t *folded) {
    const __m128i by_64 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4); /* 64 bytes ahead */
    const __m128i by_16 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0); /* 16 bytes ahead */
    __m128i a = _mm_xor_si128(load(data), _mm_cvtsi32_si128((int)~value));
    __m128i b = load(data + 16), c = load(data + 32), d = load(data + 48);
    int64_t done = 64;
    for (; done + 64 <= count; done += 64) {
        a = fold(a, load(data + done), by_64);
        b = fold(b, load(data + done + 16), by_64);
        c = fold(c, load(data + done + 32), by_64);
        d = fold(d, load(data + done + 48), by_64);
    }
    _mm_storeu_si128((__m128i *)(void *)folded, fold(fold(fold(a, b, by_16), c, by_16), d, by_16));
    return done;
}

#ifdef __AVX512F__
static int has_wide(void) { /* such a CPU has leaf 7 */
    uint32_t leaf[4];
    ask(7, leaf);
    return leaf[2] >> 10 & 1;
}

WIDE static inline __m512i fold_wide(__m512i register_, const uint8_t *next, __m512i k) {
    const __m512i low = _mm512_clmulepi64_epi128(register_, k, 0x00), high = _mm512_clmulepi64_epi128(register_, k, 0x11);
    return _mm512_xor_si512(_mm512_loadu_si512(next), _mm512_xor_si512(low, high));
}

/* The same with registers of 64 bytes, in blocks of 256 bytes: the last block is folded as data of its own. */
WIDE static int64_t fold_all_wide(const uint8_t *data, int64_t count, uint32_t value, uint8_t *folded) {
    const __m512i by_256 = _mm512_set4_epi64(0x01322d1430, 0x011542778a, 0x01322d1430, 0x011542778a);
    const __m512i first = _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)~value));
    __m512i a = _mm512_xor_si512(_mm512_loadu_si512(data), first), b = _mm512_loadu_si512(data + 64);
    __m512i c = _mm512_loadu_si512(data + 128), d = _mm512_loadu_si512(data + 192);
    uint8_t last[256];
    int64_t done = 256;
    for (; done + 256 <= count; done += 256) {
        a = fold_wide(a, data + done, by_256);
        b = fold_wide(b, data + done + 64, by_256);
        c = fold_wide(c, data + done + 128, by_256);
        d = fold_wide(d, data + done + 192, by_256);
    }
    _mm512_storeu_si512(last, a);
    _mm512_storeu_si512(last + 64, b);
    _mm512_storeu_si512(last + 128, c);
    _mm512_storeu_si512(last + 192, d);
    fold_all(last, sizeof last, 0xFFFFFFFF, folded); /* of a register of zero, because it is stored inverted */
    return done;
}
#endif
#endif

/* Fold whole blocks of `data` into the 16 bytes `folded`, and return how many bytes those stand for.
 *
 * `value` is the CRC-32 of what comes before. The CRC-32 continues with `folded` from a register of zero. The result is
 * 0 where the CPU or the compiler cannot, and for less than a block.
 */
EXPORT int64_t KERNEL(crc32_fold)(const uint8_t *data, int64_t count, uint32_t value, uint8_t *folded) {
#ifdef X86_64
#ifdef __AVX512F__
    if (count >= 256 && has_carry_less() && has_wide()) {
        return fold_all_wide(data, count, value, folded);
    }
#endif
    if (count >= 64 && has_carry_less()) {
        return fold_all(data, count, value, folded);
    }
#else
    (void)data, (void)count, (void)value, (void)folded;
#endif
    return 0;
}
