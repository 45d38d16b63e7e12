/* Histograms of magnitudes, and the sums of squares of their bins. */
#include "common.h"

#include <math.h>

enum { CHUNK = 1024 };

#define BODY "magnitude.inc"
#include "each_width.h"
#define BODY "numbers.inc"
#include "each_width.h"
#define BODY "histograms.inc"
#include "each_width.h"
