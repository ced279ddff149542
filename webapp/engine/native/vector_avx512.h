/* Registers of AVX-512 with VNNI: sixteen floats. For ops_avx512vnni.c. */
#pragma once
#ifdef INTRINSICS
#include INTRINSICS /* what tests put in place of the processor's */
#else
#include <immintrin.h>
#endif
#include <stdint.h>
#include <string.h>

#define ROWS 8 /* rows of a product computed together; with more registers of weights gcc 12 keeps sums in memory */
#define QUERIES 8
#define COLUMNS 2 /* registers of keys or of values beside them */
#define KEEP_IN_REGISTER(v)

#define LANES 16
typedef __m512 vf;
typedef __m512i vi;

static inline vf v_load(const float *at) { return _mm512_loadu_ps(at); }
static inline void v_store(float *at, vf value) { _mm512_storeu_ps(at, value); }
static inline vf v_of(float value) { return _mm512_set1_ps(value); }
static inline vi v_ints_of(int32_t value) { return _mm512_set1_epi32(value); }
static inline vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }   /* c + a b */
static inline vf v_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a b */
static inline vf v_nearest(vf x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline vi v_to_ints(vf x) { return _mm512_cvtps_epi32(x); }
static inline vf v_to_floats(vi x) { return _mm512_cvtepi32_ps(x); }
static inline vf v_magnitude(vf x) { return _mm512_and_ps(x, (vf)v_ints_of(0x7fffffff)); }
/* x * 2^n, by the exponent's bits. */
static inline vf v_scale(vf x, vi n) { return (vf)_mm512_add_epi32((vi)x, _mm512_slli_epi32(n, 23)); }
static inline vf v_where_negative(vf x, vf then, vf otherwise) {
    return _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(x)), otherwise, then);
}
static inline vf v_of_bytes(const int8_t *at) { return v_to_floats(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)at))); }

static inline float v_sum(vf v) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

static inline float v_highest(vf v) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

/* x * inverse + shift, saturated to bytes; `count`, a multiple of 16, of them. */
static inline void store_bytes(const float *x, int count, vf inverse, vf shift, uint8_t *out) {
    for (int at = 0; at < count; at += LANES) {
        const vi value = _mm512_max_epi32(v_to_ints(v_fma(v_load(x + at), inverse, shift)), _mm512_setzero_si512());
        _mm_storeu_si128((__m128i *)(out + at), _mm512_cvtusepi32_epi8(value));
    }
}

/* sums + products of two fours of bytes and weights each. */
static inline vi dot_bytes(vi sums, vi x0, const int8_t *w0, vi x1, const int8_t *w1) {
    return _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sums, x0, _mm512_loadu_si512(w0)), x1, _mm512_loadu_si512(w1));
}

