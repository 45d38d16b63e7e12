/* What all kernels share: names, widths, and the description of a float format.
 *
 * A weight is an unsigned integer of its own width, its bit pattern. Its magnitude is the pattern without the sign bit;
 * magnitudes have the order of the absolute values. Each .c file is compiled once per instruction set, and each of its
 * kernels once per width: the file defines BODY and includes "each_width.h". No kernel allocates memory, takes a lock or
 * calls Python. Weights may lie at any address, because a file may have them at an odd place: see `ANYWHERE`.
 */
#ifndef PRUNECLI_COMMON_H
#define PRUNECLI_COMMON_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef _MSC_VER
#define EXPORT __declspec(dllexport)
#define RESTRICT __restrict
#pragma fp_contract(off)
#else
#define EXPORT __attribute__((visibility("default")))
#define RESTRICT restrict
#endif

/* Integers of each width that need no alignment; compilers without the attribute assume none. */
#ifdef __GNUC__
#define ANYWHERE __attribute__((aligned(1)))
#else
#define ANYWHERE
#endif
typedef uint16_t any_uint16_t ANYWHERE;
typedef uint32_t any_uint32_t ANYWHERE;
typedef uint64_t any_uint64_t ANYWHERE;
typedef int16_t any_int16_t ANYWHERE;
typedef int32_t any_int32_t ANYWHERE;
typedef int64_t any_int64_t ANYWHERE;

#ifndef LEVEL
#define LEVEL base /* the instruction set: base, v3 (AVX2) or v4 (AVX-512) */
#endif

#define JOIN2(a, b) a##_##b
#define JOIN3(a, b, c) a##_##b##_##c
#define EXPAND2(a, b) JOIN2(a, b)
#define EXPAND3(a, b, c) JOIN3(a, b, c)

/* The exported name of a kernel for one instruction set, and for one width and one instruction set. */
#define KERNEL(name) EXPAND2(name, LEVEL)
#define WIDTH_KERNEL(name) EXPAND3(name, BITS, LEVEL)
/* The name of a function that is not exported, for one width. */
#define WIDTH_NAME(name) EXPAND2(name, BITS)

/* A float format, as prunecli.dtypes.Float describes it. */
typedef struct {
    uint64_t finite_max; /* the largest finite magnitude */
    uint64_t top;        /* the largest magnitude, NaN included */
    int32_t mantissa;    /* stored mantissa bits */
    int32_t bias;        /* of the exponent */
    int32_t itemsize;    /* bytes */
    int32_t fnuz;        /* whether the pattern of -0.0 is the one NaN; its magnitude is `top` */
} format_t;

/* Return the float32 with these bits. */
static inline float single_of(uint32_t bits) {
    float single;
    memcpy(&single, &bits, sizeof single);
    return single;
}

#endif
