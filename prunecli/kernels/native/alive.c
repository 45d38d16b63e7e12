/* Slices with a non-zero, and the 2:4 pattern. Both stop where nothing more can be found. */
#include "common.h"

#define CHECKED 256 /* groups that are checked between two decisions to stop */

#define BODY "alive.inc"
#include "each_width.h"
