/* Pruning and all statistics of a run of weights in one pass. */
#include "codes.h"
#include "tally.h"

/* Add a sum of squares, which is not negative, to an exact total. */
static void add_exactly(tally_t *tally, int which, double sum) {
    uint64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    const int64_t exponent = (int64_t)(bits >> 52);
    if (exponent == 0x7ff) {
        tally->overflowed[which] = 1;
        return;
    }
    const uint64_t fraction = bits & (((uint64_t)1 << 52) - 1);
    const uint64_t mantissa = exponent ? fraction | (uint64_t)1 << 52 : fraction;
    const int64_t place = exponent ? exponent - 1 : 0; /* of the lowest bit, in units of 2**-1074 */
    const int shift = (int)(place % 32);
    int64_t *limb = tally->limbs[which] + place / 32;
    const uint64_t low = (mantissa & 0xffffffff) << shift, high = (mantissa >> 32) << shift;
    limb[0] += (int64_t)(low & 0xffffffff);
    limb[1] += (int64_t)((low >> 32) + (high & 0xffffffff));
    limb[2] += (int64_t)(high >> 32);
}

/* Return the sum of the limbs of `which`, rounded once; infinity if a block of it or the sum is too large. */
EXPORT double KERNEL(total)(const tally_t *tally, int64_t which) {
    uint64_t digits[LIMBS + 5] = {0}, carry = 0, bits; /* of 32 bits, after three zeros */
    int64_t high = LIMBS + 4;
    double sum;
    for (int64_t i = 0; i < LIMBS; i++) {
        carry += (uint64_t)tally->limbs[which][i];
        digits[i + 3] = carry & 0xffffffff;
        carry >>= 32;
    }
    digits[LIMBS + 3] = carry;
    while (high > 3 && !digits[high]) {
        high--;
    }
    /* The sum is `top`, of 64 bits with the first one set, and some less than a unit, times 2**exponent units. */
    uint64_t top = digits[high] << 32 | digits[high - 1], low = digits[high - 2];
    if (!top) {
        top = low; /* the sum is zero, or in the lowest digit alone */
        low = 0;
    }
    int64_t exponent = 32 * (high - 4);
    while (top && !(top >> 63)) {
        top = top << 1 | (low >> 31 & 1);
        low = low << 1 & 0xffffffff;
        exponent--;
    }
    for (int64_t i = high - 3; i >= 3; i--) {
        low |= digits[i];
    }
    /* A sum of less than 2**53 units has no bit below them, so nothing is rounded where numbers are subnormal. */
    uint64_t mantissa = top >> 11;
    const uint64_t rest = top & 0x7ff;
    mantissa += rest > 0x400 || (rest == 0x400 && (low || mantissa & 1));
    exponent += 11;
    if (mantissa >> 53) {
        mantissa >>= 1;
        exponent++;
    }
    if (tally->overflowed[which] || exponent + 1 >= 0x7ff) {
        bits = (uint64_t)0x7ff << 52;
    } else if (exponent < 0) {
        bits = mantissa >> -exponent;
    } else {
        bits = (uint64_t)(exponent + 1) << 52 | (mantissa & (((uint64_t)1 << 52) - 1));
    }
    memcpy(&sum, &bits, sizeof sum);
    return sum;
}

void KERNEL(keep_slices)(int64_t count, int64_t first, const int64_t view[3], const uint8_t *alive, int8_t *flags);
void KERNEL(drop_from)(int64_t count, int64_t first, int64_t length, int64_t inner, int64_t from, int8_t *flags);

#define BODY "magnitude.inc"
#include "each_width.h"
#define BODY "squares.inc"
#include "each_width.h"
#define BODY "tally.inc"
#include "each_width.h"

/* Count codes times their scale before and after those with the flag 0 are dropped, as `prune` does for weights. */
EXPORT void KERNEL(count_codes)(tally_t *tally, const scaled_t *s, int64_t first, const int8_t *flags, uint64_t *edges) {
    uint64_t before[BLOCK], after[BLOCK];
    for (int64_t start = 0; start < s->count;) {
        const int64_t size = part_of_block_64(tally, first + start, s->count - start);
        multiply_codes(s, start, size, ~((uint64_t)1 << 63), before);
        for (int64_t i = 0; i < size; i++) {
            after[i] = before[i] & (uint64_t)(int64_t)flags[start + i];
        }
        count_part_64(tally, before, after, size, first + start, edges);
        start += size;
    }
}

/* Mark what pruned codes, a run from row-major element `first`, show about slices and groups. */
EXPORT void KERNEL(mark_codes)(tally_t *tally, const uint8_t *codes, int64_t count, int64_t first, int32_t fnuz) {
    mark_8(tally, codes, count, first, fnuz);
}

/* Give the marks of a tensor of `numel` weights their memory, if they are counted; return that behind it. */
static uint8_t *place_marks(marks_t *marks, int64_t numel, uint8_t *memory) {
    if (!marks->view[0]) {
        return memory;
    }
    const int64_t slices = marks->view[1], stacks = numel / (marks->view[0] * slices * marks->view[2]);
    marks->dead = (int64_t *)memory;
    for (int64_t stack = 0; stack < stacks; stack++) {
        marks->dead[stack] = slices;
    }
    marks->alive = memory + stacks * (int64_t)sizeof *marks->dead;
    memset(marks->alive, 0, (size_t)(stacks * slices));
    return marks->alive + (stacks * slices + 7) / 8 * 8;
}

static int64_t count_dead(const marks_t *marks, int64_t numel) {
    int64_t found = marks->alive ? 0 : -1;
    if (marks->alive) {
        const int64_t stacks = numel / (marks->view[0] * marks->view[1] * marks->view[2]);
        for (int64_t stack = 0; stack < stacks; stack++) {
            found += marks->dead[stack];
        }
    }
    return found;
}

static result_t result_of(const tally_t *tally) {
    const result_t result = {
        {tally->zeros[BEFORE], tally->zeros[AFTER]},
        tally->nonfinite,
        {KERNEL(total)(tally, BEFORE), KERNEL(total)(tally, AFTER)},
        tally->largest_pruned,
        tally->smallest_kept,
        {count_dead(&tally->outputs, tally->numel), count_dead(&tally->inputs, tally->numel)},
        tally->length ? tally->overfull : -1,
    };
    return result;
}

/* Prune whole tensors, one after the other, and count them before and after.
 *
 * `marks` is aligned memory for the marks of one tensor: 8 bytes per stack and 1 per slice of outputs and of inputs, each
 * filled up to a multiple of 8. `flags` has a byte for each weight of one tensor, and `scratch` is that of `keep_largest`;
 * they are used for groups and slices.
 */
EXPORT void KERNEL(prune_each)(const item_t *items, int64_t count, uint8_t *marks, int8_t *flags, void *scratch,
                               result_t *results) {
    for (int64_t i = 0; i < count; i++) {
        tally_t tally = *items[i].kind;
        place_marks(&tally.inputs, tally.numel, place_marks(&tally.outputs, tally.numel, marks));
        switch (tally.format.itemsize) {
        case 1:
            prune_item_8(&tally, &items[i], flags, scratch);
            break;
        case 2:
            prune_item_16(&tally, &items[i], flags, scratch);
            break;
        case 4:
            prune_item_32(&tally, &items[i], flags, scratch);
            break;
        default:
            prune_item_64(&tally, &items[i], flags, scratch);
        }
        results[i] = result_of(&tally);
    }
}
