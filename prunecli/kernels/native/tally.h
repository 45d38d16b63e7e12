/* The running counts of one tensor in one thread; see prunecli/kernels/tally.py for what they mean. */
#ifndef PRUNECLI_TALLY_H
#define PRUNECLI_TALLY_H

#include "common.h"

#define BLOCK 1024   /* elements of a block of the sum of squares */
#define SMALLEST_SINGLE 1e-20
#define LIMBS 68     /* of 32 bits each: 2**-1074 to 2**1024, and space for sums */
#define BEFORE 0
#define AFTER 1

typedef struct {
    format_t format;
    int64_t numel;
    int64_t zeros[2]; /* before and after */
    int64_t nonfinite;
    uint64_t largest_pruned;
    uint64_t smallest_kept; /* UINT64_MAX: none */
    int64_t overflowed[2];
    int64_t limbs[2][LIMBS]; /* limb i counts units of 2**(32 * i - 1074); none overflows before 2**31 additions */
    int64_t *bins[2];        /* the counts of the bins, or NULL */
    int64_t bin_shift, bin_first, bin_last;
} tally_t;

#endif
