/* Flags as bits. */
#include "common.h"

/* Store `rows` rows of `cols` flags, each 0 or 1, as bits. The first flag of a row is the lowest bit of its first byte,
 * and zeros fill up its last byte. */
EXPORT void KERNEL(pack_bits)(const uint8_t *RESTRICT flags, int64_t rows, int64_t cols, uint8_t *RESTRICT out) {
    for (int64_t row = 0; row < rows; row++) {
        int64_t left = cols;
        for (; left >= 8; left -= 8, flags += 8) {
            unsigned byte = 0;
            for (int bit = 0; bit < 8; bit++) {
                byte |= (unsigned)flags[bit] << bit;
            }
            *out++ = (uint8_t)byte;
        }
        if (left > 0) {
            unsigned byte = 0;
            for (int bit = 0; bit < (int)left; bit++) {
                byte |= (unsigned)flags[bit] << bit;
            }
            *out++ = (uint8_t)byte;
            flags += left;
        }
    }
}
