/* The running counts of one tensor in one thread; see prunecli/kernels/tally.py for what they mean. */
#ifndef PRUNECLI_TALLY_H
#define PRUNECLI_TALLY_H

#include "common.h"

#define BLOCK 1024   /* elements of a block of the sum of squares */
#define SMALLEST_SINGLE 1e-20
#define LIMBS 68     /* of 32 bits each: 2**-1074 to 2**1024, and space for sums */
#define BEFORE 0
#define AFTER 1

/* Which slices of a view (stacks, before, slices, after) have a non-zero: see `mark_alive`; `alive` NULL: not counted. */
typedef struct {
    int64_t view[3];
    uint8_t *alive;
    int64_t *dead;
} marks_t;

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
    marks_t outputs, inputs;
    int64_t length, inner; /* groups of 4 lie along `length` of (outer, length, inner); 0: they are not checked */
    int64_t overfull;      /* whether a group has more than 2 non-zeros, so that no other need be checked */
} tally_t;

/* A tensor that lies in memory whole, and what is dropped of it: as in `prune`, or all but `keep` of each group, or the
 * slices of `view` whose byte in `alive` is 0. */
typedef struct {
    void *x;
    const tally_t *kind; /* its counts before the first weight; the memory of its marks is not set */
    uint64_t cut;
    int64_t ties;
    int64_t length, inner, group, keep; /* as in `keep_largest`; `group` 0: no groups */
    int64_t from;                       /* as in `drop_from` */
    int64_t view[3];
    const uint8_t *alive; /* NULL: no slices */
} item_t;

/* What was counted about it; -1 for what was not. */
typedef struct {
    int64_t zeros[2];
    int64_t nonfinite;
    double squares[2];
    uint64_t largest_pruned;
    uint64_t smallest_kept;
    int64_t dead[2]; /* outputs and inputs */
    int64_t overfull;
} result_t;

#endif
