/* Magnitudes of weights. */
#include "common.h"

#define BODY "magnitude.inc"
#include "each_width.h"
#define BODY "magnitudes.inc"
#include "each_width.h"
