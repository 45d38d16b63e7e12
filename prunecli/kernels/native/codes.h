/* Codes of 8 bits that stand for weights: each is multiplied by the entry of its block in a scale. */
#ifndef PRUNECLI_CODES_H
#define PRUNECLI_CODES_H

#include "common.h"

#define CODES 256

/* Rows of `cols` codes, which are cut into blocks of `wide` columns. The first column is the one at `offset` in its block,
 * and row r has the entries [lines[r] * blocks, (lines[r] + 1) * blocks). */
typedef struct {
    const uint8_t *codes;
    int64_t count;
    int64_t cols, offset, wide, blocks;
    const int64_t *lines;
    const double *entries;
    const double *table; /* the value of each code */
    int64_t fnuz;        /* whether the code of -0.0 is NaN */
} scaled_t;

/* The next codes, and the place of their entry. */
typedef struct {
    int64_t row, column, entry;
} cursor_t;

static inline cursor_t cursor_at(const scaled_t *s, int64_t start) {
    const cursor_t at = {start / s->cols, start % s->cols, (s->offset + start % s->cols) / s->wide};
    return at;
}

/* Set `entry` to the number of the entry of the next code, and move behind the codes that have the same one, or behind
 * those of the row if each column has its own. Return the number of these codes, at most `left`. */
static inline int64_t next_codes(const scaled_t *s, cursor_t *at, int64_t left, int64_t *entry) {
    const int64_t rest = s->cols - at->column, end = (at->entry + 1) * s->wide - s->offset - at->column;
    int64_t size = s->wide == 1 || end > rest ? rest : end;
    *entry = s->lines[at->row] * s->blocks + at->entry;
    size = size < left ? size : left;
    at->column += size;
    at->entry += s->wide == 1 ? size : size == end;
    if (at->column == s->cols) {
        at->column = at->entry = 0;
        at->row++;
    }
    return size;
}

/* Store `count` codes, from number `start` on, times their entries as bits of float64, of which `mask` says which count. */
static inline void multiply_codes(const scaled_t *s, int64_t start, int64_t count, uint64_t mask, uint64_t *RESTRICT out) {
    const uint8_t *codes = s->codes + start;
    const double *RESTRICT table = s->table;
    cursor_t at = cursor_at(s, start);
    while (count > 0) {
        int64_t entry;
        const int64_t size = next_codes(s, &at, count, &entry), step = s->wide == 1;
        const double *entries = s->entries + entry;
        for (int64_t i = 0; i < size; i++) {
            const double product = table[codes[i]] * entries[i * step];
            uint64_t bits;
            memcpy(&bits, &product, sizeof bits);
            out[i] = bits & mask;
        }
        codes += size;
        out += size;
        count -= size;
    }
}

#endif
