/* Folds of numbers: sums, largest and smallest ones. prunecli/kernels/folds.py defines their order. */
#include "common.h"

#include <math.h>

enum {
    CHUNK = 1024,  /* numbers of a row that are folded together, a power of two */
    STRIP = 256,   /* columns that are folded together */
    LEVELS = 40    /* of a fold: no row or column has 2**LEVELS chunks or numbers */
};

enum { ADD, LARGER, SMALLER }; /* how two numbers are joined */

static inline double joined(double a, double b, int32_t join) {
    return join == ADD ? a + b : join == LARGER ? (a > b ? a : b) : (a < b ? a : b);
}

static inline void join_pairs_by(const double *RESTRICT a, int64_t count, double *RESTRICT b, int32_t join) {
    for (int64_t i = 0; i < count; i++) {
        b[i] = joined(a[2 * i], a[2 * i + 1], join);
    }
}

/* Store the results of the `count` pairs of `a` in `b`. */
static void join_pairs(const double *RESTRICT a, int64_t count, double *RESTRICT b, int32_t join) {
    if (join == ADD) {
        join_pairs_by(a, count, b, ADD);
    } else if (join == LARGER) {
        join_pairs_by(a, count, b, LARGER);
    } else {
        join_pairs_by(a, count, b, SMALLER);
    }
}

static inline void join_arrays_by(const double *a, const double *b, int64_t count, double *out, int32_t join) {
    for (int64_t i = 0; i < count; i++) {
        out[i] = joined(a[i], b[i], join);
    }
}

/* Join two arrays; `out` may be one of them. */
static void join_arrays(const double *a, const double *b, int64_t count, double *out, int32_t join) {
    if (join == ADD) {
        join_arrays_by(a, b, count, out, ADD);
    } else if (join == LARGER) {
        join_arrays_by(a, b, count, out, LARGER);
    } else {
        join_arrays_by(a, b, count, out, SMALLER);
    }
}

/* Store the folds of the `rows` rows of `length` numbers in `a`, at most CHUNK in all, in `out`. `a` is overwritten. */
static void fold_rows(double *a, int64_t rows, int64_t length, int32_t join, double *out) {
    double other[CHUNK], *from = a, *to = other;
    while (length > 1) {
        const int64_t half = length / 2;
        if (length % 2 == 0) {
            join_pairs(from, rows * half, to, join);
        } else {
            /* Row i moves from length * i to (half + 1) * i. */
            for (int64_t row = 0; row < rows; row++) {
                double *place = to + row * (half + 1);
                const double *source = from + row * length;
                for (int64_t i = 0; i < half; i++) {
                    place[i] = joined(source[2 * i], source[2 * i + 1], join);
                }
                place[half] = source[length - 1];
            }
        }
        length -= half;
        double *const swapped = from;
        from = to;
        to = swapped;
    }
    memcpy(out, from, (size_t)rows * sizeof(double));
}

/* The folds of numbers that arrive one after the other. `nodes[k]` is valid where bit k of `count` is set. */
typedef struct {
    double nodes[LEVELS];
    int64_t count;
} fold_t;

static void fold_add(fold_t *fold, double node, int32_t join) {
    int level = 0;
    for (int64_t bits = fold->count++; bits & 1; bits >>= 1) {
        node = joined(fold->nodes[level++], node, join);
    }
    fold->nodes[level] = node;
}

static double fold_result(const fold_t *fold, int32_t join) {
    int level = 0;
    while (!(fold->count >> level & 1)) {
        level++;
    }
    double node = fold->nodes[level];
    while (fold->count >> ++level) {
        if (fold->count >> level & 1) {
            node = joined(fold->nodes[level], node, join);
        }
    }
    return node;
}

#define BODY "magnitude.inc"
#include "each_width.h"
#define BODY "numbers.inc"
#include "each_width.h"
#define BODY "folds.inc"
#include "each_width.h"
