/* Pruning and all statistics of a run of weights in one pass. */
#include "tally.h"

/* Add a sum of squares, which is not negative, to an exact total. */
static void add_exactly(tally_t *tally, int which, double sum) {
    uint64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    const int64_t exponent = (int64_t)(bits >> 52);
    if (exponent == 0x7ff) {
        tally->overflowed[which] = 1;
        return;
    }
    const uint64_t fraction = bits & (((uint64_t)1 << 52) - 1);
    const uint64_t mantissa = exponent ? fraction | (uint64_t)1 << 52 : fraction;
    const int64_t place = exponent ? exponent - 1 : 0; /* of the lowest bit, in units of 2**-1074 */
    const int shift = (int)(place % 32);
    int64_t *limb = tally->limbs[which] + place / 32;
    const uint64_t low = (mantissa & 0xffffffff) << shift, high = (mantissa >> 32) << shift;
    limb[0] += (int64_t)(low & 0xffffffff);
    limb[1] += (int64_t)((low >> 32) + (high & 0xffffffff));
    limb[2] += (int64_t)(high >> 32);
}

#define BODY "magnitude.inc"
#include "each_width.h"
#define BODY "squares.inc"
#include "each_width.h"
#define BODY "tally.inc"
#include "each_width.h"
