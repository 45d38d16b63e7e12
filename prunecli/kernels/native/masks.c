/* Masks in files: a number or a bit per weight, 1 for a kept one. In memory a mask is a byte per weight, 0 or 1. */
#include "common.h"

enum { WEIGHTS, WEIGHTS_FNUZ }; /* see ranks.c */

enum { MASK_BLOCK = 1024 }; /* entries that are checked together */

#define BODY "magnitude.inc"
#include "each_width.h"
#define BODY "masks.inc"
#include "each_width.h"

/* Store `rows` rows of `cols` bits as bytes, without the first `lead` bits of each row. */
EXPORT void KERNEL(unpack_bits)(const uint8_t *packed, int64_t rows, int64_t cols, int64_t lead, uint8_t *out) {
    const int64_t width = (lead + cols + 7) / 8;
    for (int64_t row = 0; row < rows; row++, packed += width) {
        const uint8_t *RESTRICT bits = packed + lead / 8;
        uint8_t *RESTRICT own = out + row * cols;
        int64_t done = 0;
        for (int64_t bit = lead % 8; bit && bit < 8 && done < cols; bit++) {
            own[done++] = bits[0] >> bit & 1;
        }
        bits += lead % 8 != 0;
        for (; done + 8 <= cols; done += 8, bits++) {
            for (int bit = 0; bit < 8; bit++) {
                own[done + bit] = *bits >> bit & 1;
            }
        }
        for (int bit = 0; done < cols; bit++) {
            own[done++] = *bits >> bit & 1;
        }
    }
}
