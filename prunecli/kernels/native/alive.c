/* Slices with a non-zero, the 2:4 pattern, and groups with too many non-zeros. */
#include "common.h"

enum {
    CHECKED = 256, /* groups that are checked between two decisions to stop */
    FEW = 512      /* groups that are counted together */
};

#define BODY "alive.inc"
#include "each_width.h"
