/* Ranking of codes times their scale without products: a magnitude times an entry has the order of the magnitude, so a
 * cut through the products is a cut through the codes of each block. */
#include "codes.h"

enum {
    COUNTED = 128, /* codes that are counted in a register of their own width */
    FEW = 8,       /* up to so many magnitudes of a block are counted one by one */
    LARGEST = 128  /* the magnitude of the code of -0.0 where that is NaN */
};

#define SIGN 0x80
#define MAGNITUDE (~((uint64_t)1 << 63))

static inline uint8_t magnitude(uint8_t code, uint8_t nan) {
    return (uint8_t)((code & 0x7f) | (code == SIGN ? nan : 0));
}

static inline uint8_t nan_of(const scaled_t *s) {
    return s->fnuz ? SIGN : 0;
}

/* Return the pattern of a magnitude times an entry. */
static inline uint64_t pattern(const double *table, int rank, double entry) {
    const double product = table[rank] * entry;
    uint64_t bits;
    memcpy(&bits, &product, sizeof bits);
    return bits & MAGNITUDE;
}

/* Store the products with their signs, if `mask` has all bits, or those of magnitudes as patterns. */
EXPORT void KERNEL(code_products)(const scaled_t *s, int64_t start, int64_t count, uint64_t mask, uint64_t *out) {
    multiply_codes(s, start, count, mask, out);
}

/* Store how many magnitudes, times each entry, are below `cut`. */
EXPORT void KERNEL(code_cuts)(const scaled_t *s, int64_t entries, uint64_t cut, uint8_t *cuts) {
    const int last = s->fnuz ? LARGEST : LARGEST - 1;
    for (int64_t i = 0; i < entries; i++) {
        int low = 0, high = last + 1;
        while (low < high) {
            const int middle = (low + high) / 2;
            if (pattern(s->table, middle, s->entries[i]) < cut) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        cuts[i] = (uint8_t)low;
    }
}

/* Write the flags of the magnitudes that are at least the cut of their entry. */
EXPORT void KERNEL(code_flags)(const scaled_t *s, const uint8_t *RESTRICT cuts, int8_t *RESTRICT flags) {
    const uint8_t *codes = s->codes, nan = nan_of(s);
    cursor_t at = cursor_at(s, 0);
    for (int64_t left = s->count; left > 0;) {
        int64_t entry;
        const int64_t size = next_codes(s, &at, left, &entry);
        if (s->wide == 1) {
            for (int64_t i = 0; i < size; i++) {
                flags[i] = (int8_t)-(magnitude(codes[i], nan) >= cuts[entry + i]);
            }
        } else {
            const uint8_t cut = cuts[entry];
            for (int64_t i = 0; i < size; i++) {
                flags[i] = (int8_t)-(magnitude(codes[i], nan) >= cut);
            }
        }
        codes += size;
        flags += size;
        left -= size;
    }
}

static inline int64_t count_below(const uint8_t *codes, int64_t count, uint8_t nan, const uint8_t *cuts, int64_t step) {
    int64_t found = 0;
    for (int64_t start = 0; start < count; start += COUNTED) {
        const int64_t size = count - start < COUNTED ? count - start : COUNTED;
        uint8_t part = 0;
        for (int64_t i = start; i < start + size; i++) {
            part = (uint8_t)(part + (magnitude(codes[i], nan) < cuts[i * step]));
        }
        found += part;
    }
    return found;
}

/* Return how many magnitudes are below the cut of their entry. */
EXPORT int64_t KERNEL(code_count)(const scaled_t *s, const uint8_t *cuts) {
    const uint8_t *codes = s->codes, nan = nan_of(s);
    int64_t found = 0;
    cursor_t at = cursor_at(s, 0);
    for (int64_t left = s->count; left > 0;) {
        int64_t entry;
        const int64_t size = next_codes(s, &at, left, &entry);
        found += s->wide == 1 ? count_below(codes, size, nan, cuts + entry, 1)
                              : count_below(codes, size, nan, cuts + entry, 0);
        codes += size;
        left -= size;
    }
    return found;
}

static inline int64_t count_magnitude(const uint8_t *codes, int64_t count, uint8_t nan, uint8_t rank) {
    int64_t found = 0;
    for (int64_t start = 0; start < count; start += COUNTED) {
        const int64_t size = count - start < COUNTED ? count - start : COUNTED;
        uint8_t part = 0;
        for (int64_t i = start; i < start + size; i++) {
            part = (uint8_t)(part + (magnitude(codes[i], nan) == rank));
        }
        found += part;
    }
    return found;
}

/* Write the patterns of the magnitudes in [lows, highs) of their entry to `found`, those of one run of codes with the
 * same entry in any order. `found` has space for one more. Return their number. */
EXPORT int64_t KERNEL(code_inside)(const scaled_t *s, const uint8_t *lows, const uint8_t *highs, uint64_t *found) {
    const uint8_t *codes = s->codes, nan = nan_of(s);
    const int64_t step = s->wide == 1;
    int64_t number = 0;
    cursor_t at = cursor_at(s, 0);
    for (int64_t left = s->count; left > 0;) {
        int64_t entry;
        const int64_t size = next_codes(s, &at, left, &entry);
        if (step || highs[entry] - lows[entry] > FEW) {
            for (int64_t i = 0; i < size; i++) {
                const int64_t own = entry + i * step;
                const uint8_t rank = magnitude(codes[i], nan);
                found[number] = pattern(s->table, rank, s->entries[own]);
                number += rank >= lows[own] && rank < highs[own];
            }
        } else {
            for (int rank = lows[entry]; rank < highs[entry]; rank++) {
                const uint64_t product = pattern(s->table, rank, s->entries[entry]);
                const int64_t equal = count_magnitude(codes, size, nan, (uint8_t)rank);
                for (int64_t i = 0; i < equal; i++) {
                    found[number + i] = product;
                }
                number += equal;
            }
        }
        codes += size;
        left -= size;
    }
    return number;
}

/* Clear the flags of the first `limit` codes whose magnitudes are in [lows, highs) of their entry. Return how many are
 * left. */
EXPORT int64_t KERNEL(code_drop)(const scaled_t *s, const uint8_t *lows, const uint8_t *highs, int64_t limit,
                                 int8_t *flags) {
    const uint8_t *codes = s->codes, nan = nan_of(s);
    const int64_t step = s->wide == 1;
    cursor_t at = cursor_at(s, 0);
    for (int64_t left = s->count; left > 0 && limit > 0;) {
        int64_t entry;
        const int64_t size = next_codes(s, &at, left, &entry);
        if (step || highs[entry] > lows[entry]) {
            for (int64_t i = 0; i < size && limit > 0; i++) {
                const int64_t own = entry + i * step;
                const uint8_t rank = magnitude(codes[i], nan);
                if (rank >= lows[own] && rank < highs[own]) {
                    flags[i] = 0;
                    limit--;
                }
            }
        }
        codes += size;
        flags += size;
        left -= size;
    }
    return limit;
}
