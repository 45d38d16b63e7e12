/* Flags of weights: -1 for one that survives, 0 for a pruned one. A run starts at row-major element `first`. */
#include "common.h"

#define WEIGHTS_FNUZ 1
#define PATTERNS 2

static int8_t flag_of(uint8_t alive) {
    return (int8_t)-(alive != 0);
}

/* Write the flags of a run of a view (stacks, before, slices, after); `alive` has a byte per slice of all stacks. */
EXPORT void KERNEL(keep_slices)(int64_t count, int64_t first, const int64_t view[3], const uint8_t *RESTRICT alive,
                                int8_t *RESTRICT flags) {
    const int64_t before = view[0], slices = view[1], after = view[2];
    while (count > 0) {
        const int64_t run = first / after, number = run % slices, stack = run / (before * slices);
        const uint8_t *own = alive + stack * slices + number;
        int64_t size = after == 1 ? slices - number : after - first % after;
        size = size < count ? size : count;
        if (after == 1) {
            for (int64_t i = 0; i < size; i++) {
                flags[i] = flag_of(own[i]);
            }
        } else {
            memset(flags, flag_of(*own), (size_t)size);
        }
        flags += size;
        first += size;
        count -= size;
    }
}

static inline void repeat_by(const uint8_t *RESTRICT alive, int64_t stride, int64_t blocks, int64_t size,
                             int8_t *RESTRICT flags) {
    for (int64_t block = 0; block < blocks; block++) {
        const int8_t flag = flag_of(alive[block * stride]);
        for (int64_t i = 0; i < size; i++) {
            flags[block * size + i] = flag;
        }
    }
}

/* Write the flag of each of some blocks `size` times. */
static void repeat(const uint8_t *alive, int64_t stride, int64_t blocks, int64_t size, int8_t *flags) {
    switch (size) {
    case 2: repeat_by(alive, stride, blocks, 2, flags); break;
    case 4: repeat_by(alive, stride, blocks, 4, flags); break;
    case 8: repeat_by(alive, stride, blocks, 8, flags); break;
    case 16: repeat_by(alive, stride, blocks, 16, flags); break;
    default: repeat_by(alive, stride, blocks, size, flags); break;
    }
}

/* As `keep_slices`, for blocks of `block[0]` slices and `block[1]` positions in a slice; the order is that of their rows
 * in each stack. A segment is what consecutive elements have in one block.
 */
EXPORT void KERNEL(keep_blocks)(int64_t count, int64_t first, const int64_t view[3], const int64_t block[2],
                                const uint8_t *RESTRICT alive, int8_t *RESTRICT flags) {
    const int64_t before = view[0], slices = view[1], after = view[2];
    const int64_t bands = (slices + block[0] - 1) / block[0], wide = (before * after + block[1] - 1) / block[1];
    while (count > 0) {
        const int64_t run = first / after, number = run % slices, row = run / slices;
        const int64_t stack = row / before, column = row % before * after + first % after;
        const uint8_t *own = alive + (stack * bands + number / block[0]) * wide + column / block[1];
        /* In a row of the file, blocks follow each other: bands of slices, or blocks of columns. */
        const int64_t step = after == 1 ? block[0] : block[1], stride = after == 1 ? wide : 1;
        const int64_t end = after == 1 ? slices - number : after - first % after, size = end < count ? end : count;
        const int64_t head = step - (after == 1 ? number : column) % step;
        int64_t done = head < size ? head : size;
        memset(flags, flag_of(*own), (size_t)done);
        own += stride;
        const int64_t whole = (size - done) / step;
        repeat(own, stride, whole, step, flags + done);
        done += whole * step;
        if (done < size) {
            memset(flags + done, flag_of(own[whole * stride]), (size_t)(size - done));
        }
        flags += size;
        first += size;
        count -= size;
    }
}

/* Clear the flags of the elements whose index in the middle of (outer, length, inner) is `from` or more. */
EXPORT void KERNEL(drop_from)(int64_t count, int64_t first, int64_t length, int64_t inner, int64_t from, int8_t *flags) {
    while (count > 0) {
        const int64_t place = first % (length * inner), kept = from * inner;
        const int64_t end = place < kept ? kept - place : length * inner - place;
        const int64_t size = end < count ? end : count;
        if (place >= kept) {
            memset(flags, 0, (size_t)size);
        }
        flags += size;
        first += size;
        count -= size;
    }
}

/* Write 1 for -1, and 0 for 0. */
EXPORT void KERNEL(ones)(const int8_t *RESTRICT flags, int64_t count, uint8_t *RESTRICT ones) {
    for (int64_t i = 0; i < count; i++) {
        ones[i] = (uint8_t)(flags[i] & 1);
    }
}

#define BODY "magnitude.inc"
#include "each_width.h"
#define BODY "flags.inc"
#include "each_width.h"
