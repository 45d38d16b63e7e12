/* Histograms of magnitudes, and the sums of squares of their bins. */
#include "common.h"

#include <math.h>

enum {
    CHUNK = 1024,
    COPIES = 4, /* counters of one bin: neighbours are often equal, and an addition waits for the one before */
    SPREAD = 8, /* bins of zeros, for the same reason */
    TAKEN = 16  /* bins that are examined together, because most are empty */
};

/* Write the magnitudes, by their leading bits and ascending, that any of the counters of `half` positive and as many
 * negative weights have, and their numbers. Return how many there are, and clear the counters. */
EXPORT int64_t KERNEL(take_counts)(uint32_t *counters, int64_t half, int32_t fnuz, int64_t *RESTRICT bins,
                                   int64_t *RESTRICT counts) {
    uint32_t *const negative = counters + COPIES * half;
    int64_t found = 0, nan = 0;
    for (int copy = 0; copy < COPIES && fnuz; copy++) { /* the pattern of -0.0 */
        nan += negative[copy];
        negative[copy] = 0;
    }
    for (int64_t first = 0; first < half; first += TAKEN) {
        uint32_t any = 0;
        for (int64_t i = COPIES * first; i < COPIES * (first + TAKEN); i++) {
            any |= counters[i] | negative[i];
        }
        for (int64_t bin = first; bin < first + TAKEN && any != 0; bin++) {
            uint32_t *const a = counters + COPIES * bin, *const b = negative + COPIES * bin;
            int64_t sum = 0;
            for (int copy = 0; copy < COPIES; copy++) {
                sum += (int64_t)a[copy] + (int64_t)b[copy];
                a[copy] = b[copy] = 0;
            }
            bins[found] = bin;
            counts[found] = sum;
            found += sum != 0;
        }
    }
    if (nan != 0) {
        bins[found] = half;
        counts[found] = nan;
        found++;
    }
    return found;
}

#define BODY "magnitude.inc"
#include "each_width.h"
#define BODY "numbers.inc"
#include "each_width.h"
#define BODY "histograms.inc"
#include "each_width.h"
