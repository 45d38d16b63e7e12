/* Random numbers: Philox 4x64-10 (Salmon et al., 2011, https://doi.org/10.1145/2063384.2063405). */
#include "common.h"

#if defined(__SIZEOF_INT128__)
__extension__ typedef unsigned __int128 uint128_t; /* no type of ISO C */
#elif defined(_MSC_VER) && defined(_M_X64)
#include <intrin.h>
#endif

typedef struct {
    uint64_t high, low;
} wide_t;

static inline wide_t multiply(uint64_t a, uint64_t b) {
    wide_t product;
#if defined(__SIZEOF_INT128__)
    const uint128_t both = (uint128_t)a * b;
    product.high = (uint64_t)(both >> 64);
    product.low = (uint64_t)both;
#elif defined(_MSC_VER) && defined(_M_X64)
    product.low = _umul128(a, b, &product.high);
#else
    const uint64_t half = 0xffffffff;
    const uint64_t ll = (a & half) * (b & half), lh = (a & half) * (b >> 32), hl = (a >> 32) * (b & half);
    const uint64_t middle = (ll >> 32) + (lh & half) + hl;
    product.high = (a >> 32) * (b >> 32) + (lh >> 32) + (middle >> 32);
    product.low = middle << 32 | (ll & half);
#endif
    return product;
}

/* Encipher the counter (`counter`, 0, 0, 0) into `words`. */
static inline void philox(uint64_t counter, uint64_t key0, uint64_t key1, uint64_t *words) {
    uint64_t a = counter, b = 0, c = 0, d = 0;
    for (int round = 0; round < 10; round++) {
        const wide_t x = multiply(a, 0xD2E7470EE14C6C93u), y = multiply(c, 0xCA5A826395121157u);
        a = y.high ^ b ^ key0;
        b = y.low;
        c = x.high ^ d ^ key1;
        d = x.low;
        key0 += 0x9E3779B97F4A7C15u;
        key1 += 0xBB67AE8584CAA73Bu;
    }
    words[0] = a;
    words[1] = b;
    words[2] = c;
    words[3] = d;
}

/* Store the numbers [first, first + count) of the stream of a key in `out`, 31 bits each: eight for each counter. */
EXPORT void KERNEL(random_bits)(uint64_t key0, uint64_t key1, int64_t first, int64_t count, uint32_t *RESTRICT out) {
    int64_t skip = first % 8, done = 0;
    for (uint64_t counter = (uint64_t)(first / 8); done < count; counter++, skip = 0) {
        uint64_t words[4];
        /* The counter begins at 1: NumPy increments it first. */
        philox(counter + 1, key0, key1, words);
        if (skip == 0 && count - done >= 8) {
            for (int i = 0; i < 4; i++) {
                out[done + 2 * i] = (uint32_t)words[i] >> 1;
                out[done + 2 * i + 1] = (uint32_t)(words[i] >> 33);
            }
            done += 8;
        } else {
            for (int64_t i = skip; i < 8 && done < count; i++) {
                out[done++] = (uint32_t)(words[i / 2] >> (i % 2 * 32)) >> 1;
            }
        }
    }
}
