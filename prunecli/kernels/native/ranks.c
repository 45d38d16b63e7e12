/* Ranking: counts in a bracket of magnitudes, and the largest or smallest of groups, rows and arrays. */
#include "common.h"

enum { WEIGHTS, WEIGHTS_FNUZ, PATTERNS, KEYS }; /* what the numbers of an array are; see key.inc */

enum {
    COUNT_BLOCK_8 = 128,  /* numbers that are counted in a register of their own width */
    COUNT_BLOCK_16 = 512,
    COUNT_BLOCK_32 = 512,
    COUNT_BLOCK_64 = 512,
    EQUAL_BLOCK = 64,    /* numbers that are searched for an equal one together */
    DENSE = 16,          /* a block is copied number by number if more than this part of it is inside a bracket */
    FEW_PATTERNS_8 = 32, /* up to so many patterns are counted one by one */
    FEW_PATTERNS_16 = 32,
    FEW_PATTERNS_32 = 16,
    FEW_PATTERNS_64 = 8,
    FEW_BLOCK_8 = 128, /* numbers that are counted together then, in registers of their own width */
    FEW_BLOCK_16 = 4096,
    FEW_BLOCK_32 = 2048,
    FEW_BLOCK_64 = 1024,
    DIGIT_BITS = 11,
    DIGITS = 1 << DIGIT_BITS,
    LONG_ROW_8 = 1 << 30, /* a longer row is first reduced to the numbers with the digit of the wanted one */
    LONG_ROW_16 = 1 << 30,
    LONG_ROW_32 = 1 << 14,
    LONG_ROW_64 = 1 << 14,
    SHORT_GROUP_8 = 48,   /* the members of a longer group are not compared with each other */
    SHORT_GROUP_16 = 32,
    SHORT_GROUP_32 = 24,
    SHORT_GROUP_64 = 24,
    UNIT = 512,          /* the numbers of a block of short groups */
    ALIGNED = 64,        /* blocks are ranked in multiples of this */
    COLUMNS = 16,        /* columns that are copied into rows together */
    SPARE = 16,          /* counters that are never read */
    TILE = 1 << 16       /* the most numbers of those */
};

#define COUNT_BLOCK EXPAND2(COUNT_BLOCK, BITS)
#define FEW_PATTERNS EXPAND2(FEW_PATTERNS, BITS)
#define FEW_BLOCK EXPAND2(FEW_BLOCK, BITS)

#define ALL_BITS ((uint_t) ~(uint_t)0)
#define MASK(condition) ((uint_t)((condition) ? ALL_BITS : 0))

#define LONG_ROW EXPAND2(LONG_ROW, BITS)
#define SHORT_GROUP EXPAND2(SHORT_GROUP, BITS)

#define BODY "key.inc"
#include "each_width.h"
#define BODY "bracket.inc"
#include "each_width.h"
#define BODY "select.inc"
#include "each_width.h"
#define BODY "groups.inc"
#include "each_width.h"
#define BODY "slices.inc"
#include "each_width.h"
