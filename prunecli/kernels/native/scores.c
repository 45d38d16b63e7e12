/* Scores: magnitudes times a number for each slice, as patterns of float64. */
#include "common.h"

#include <math.h>

enum { CHUNK = 1024 }; /* numbers that are computed together */

#define QUIET ((uint64_t)1 << 51) /* the bit of a NaN that arithmetic sets */

#define BODY "magnitude.inc"
#include "each_width.h"
#define BODY "numbers.inc"
#include "each_width.h"
#define BODY "scores.inc"
#include "each_width.h"
