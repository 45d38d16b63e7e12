/* Comparisons of weights. */
#include "common.h"

#include <math.h>

#define INFINITE ((int64_t)0x7ff << 52) /* the pattern of infinity */

enum { CHUNK = 1024 };

typedef struct {
    int64_t changed;     /* other bits */
    int64_t to_zero;     /* zero now, of either sign, and not before */
    int64_t zero_signs;  /* zeros with another sign */
    int64_t nonfinite;   /* changed by a difference that is not finite */
    int64_t first;       /* the first change, or -1 */
    int64_t first_other; /* the first change to another value than zero, or -1 */
    double largest;      /* the largest finite difference */
} changes_t;

#define BODY "magnitude.inc"
#include "each_width.h"
#define BODY "numbers.inc"
#include "each_width.h"
#define BODY "changes.inc"
#include "each_width.h"
