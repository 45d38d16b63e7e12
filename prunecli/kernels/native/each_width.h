/* Include BODY once for each width of a weight: BITS, uint_t, int_t, and SIGN, the sign bit. */
#define BITS 8
#define uint_t uint8_t
#define int_t int8_t
#define SIGN ((uint8_t)0x80)
#include BODY
#undef BITS
#undef uint_t
#undef int_t
#undef SIGN

#define BITS 16
#define uint_t any_uint16_t
#define int_t any_int16_t
#define SIGN ((uint16_t)0x8000)
#include BODY
#undef BITS
#undef uint_t
#undef int_t
#undef SIGN

#define BITS 32
#define uint_t any_uint32_t
#define int_t any_int32_t
#define SIGN ((uint32_t)0x80000000)
#include BODY
#undef BITS
#undef uint_t
#undef int_t
#undef SIGN

#define BITS 64
#define uint_t any_uint64_t
#define int_t any_int64_t
#define SIGN ((uint64_t)1 << 63)
#include BODY
#undef BITS
#undef uint_t
#undef int_t
#undef SIGN

#undef BODY
