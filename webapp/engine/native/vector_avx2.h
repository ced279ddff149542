/* Registers of AVX2 with FMA: eight floats. For ops_avx2.c and ops_avxvnni.c, which differ in `dot_bytes`. */
#pragma once
#ifdef INTRINSICS
#include INTRINSICS /* what tests put in place of the processor's */
#else
#include <immintrin.h>
#endif
#include <stdint.h>
#include <string.h>

#define ROWS 5    /* rows of a product computed together: ten sums, a row's bytes and what comes of them fill 16 registers */
#define QUERIES 6 /* queries computed together: twelve sums */
#define COLUMNS 2 /* registers of keys or of values beside them */
#ifdef INTRINSICS
#define KEEP_IN_REGISTER(v)
#else
#define KEEP_IN_REGISTER(v) __asm__("" : "+x"(v)) /* gcc would keep three of ten sums in memory */
#endif

#define LANES 8
typedef __m256 vf;
typedef __m256i vi;

static inline vf v_load(const float *at) { return _mm256_loadu_ps(at); }
static inline void v_store(float *at, vf value) { _mm256_storeu_ps(at, value); }
static inline vf v_of(float value) { return _mm256_set1_ps(value); }
static inline vi v_ints_of(int32_t value) { return _mm256_set1_epi32(value); }
static inline vi v_load_bytes(const void *at) { return _mm256_loadu_si256(at); }
static inline vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }
static inline vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }   /* c + a b */
static inline vf v_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); } /* c - a b */
static inline vf v_nearest(vf x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline vi v_to_ints(vf x) { return _mm256_cvtps_epi32(x); }
static inline vf v_to_floats(vi x) { return _mm256_cvtepi32_ps(x); }
static inline vf v_magnitude(vf x) { return _mm256_and_ps(x, (vf)v_ints_of(0x7fffffff)); }
/* x * 2^n, by the exponent's bits. */
static inline vf v_scale(vf x, vi n) { return (vf)_mm256_add_epi32((vi)x, _mm256_slli_epi32(n, 23)); }
static inline vf v_where_negative(vf x, vf then, vf otherwise) { return _mm256_blendv_ps(otherwise, then, x); }
static inline vf v_of_bytes(const int8_t *at) { return v_to_floats(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)at))); }
static inline float v_sum(vf v) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

static inline float v_highest(vf v) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

/* x * inverse + shift, saturated to bytes; `count`, a multiple of 16, of them. */
static inline void store_bytes(const float *x, int count, vf inverse, vf shift, uint8_t *out) {
    for (int at = 0; at < count; at += 4 * LANES) {
        vi part[4] = {0};
        for (int i = 0; i < 4 && at + i * LANES < count; i++)
            part[i] = v_to_ints(v_fma(v_load(x + at + i * LANES), inverse, shift));
        /* Packing works within halves; the permutation puts the fours of bytes back in order. */
        vi bytes = _mm256_packus_epi16(_mm256_packs_epi32(part[0], part[1]), _mm256_packs_epi32(part[2], part[3]));
        bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        if (at + 4 * LANES <= count)
            _mm256_storeu_si256((vi *)(out + at), bytes);
        else
            _mm_storeu_si128((__m128i *)(out + at), _mm256_castsi256_si128(bytes));
    }
}
