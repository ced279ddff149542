/* As many floats at a time as the processor takes: exponential, activations, sums. Everything above is written once, for
 * AVX2 with FMA (eight lanes) and for AVX-512 (sixteen); this file and linear.h's `dot` and `store_bytes` tell them apart.
 * Operators work on vectors lane by lane.
 */
#pragma once
#include <immintrin.h>
#include <math.h>
#include <stdint.h>

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VNNI__)

#define LANES 16
typedef __m512 vf;
typedef __m512i vi;

static inline vf v_load(const float *at) { return _mm512_loadu_ps(at); }
static inline void v_store(float *at, vf value) { _mm512_storeu_ps(at, value); }
static inline vf v_of(float value) { return _mm512_set1_ps(value); }
static inline vi v_ints_of(int32_t value) { return _mm512_set1_epi32(value); }
static inline vi v_load_bytes(const void *at) { return _mm512_loadu_si512(at); }
static inline vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }   /* c + a b */
static inline vf v_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a b */
static inline vf v_nearest(vf x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline vi v_to_ints(vf x) { return _mm512_cvtps_epi32(x); }
static inline vf v_to_floats(vi x) { return _mm512_cvtepi32_ps(x); }
static inline vf v_and(vf a, vf b) { return _mm512_and_ps(a, b); }
static inline vf v_or(vf a, vf b) { return _mm512_or_ps(a, b); }
static inline vf v_power_of_two(vi n) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, v_ints_of(127)), 23)); }
static inline vf v_where_negative(vf x, vf then, vf otherwise) {
    return _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(x)), otherwise, then);
}
/* Numbers whose upper half is stored: bfloat16. */
static inline vf v_widen(const uint16_t *at) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)at)), 16));
}
static inline __m256 v_lower(vf v) { return _mm512_castps512_ps256(v); }
static inline __m256 v_sum_of_halves(vf v) { return _mm256_add_ps(v_lower(v), _mm512_extractf32x8_ps(v, 1)); }
static inline __m256 v_max_of_halves(vf v) { return _mm256_max_ps(v_lower(v), _mm512_extractf32x8_ps(v, 1)); }

#else

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
static inline vf v_and(vf a, vf b) { return _mm256_and_ps(a, b); }
static inline vf v_or(vf a, vf b) { return _mm256_or_ps(a, b); }
static inline vf v_power_of_two(vi n) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, v_ints_of(127)), 23)); }
static inline vf v_where_negative(vf x, vf then, vf otherwise) { return _mm256_blendv_ps(otherwise, then, x); }
/* Numbers whose upper half is stored: bfloat16. */
static inline vf v_widen(const uint16_t *at) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)at)), 16));
}
static inline __m256 v_sum_of_halves(vf v) { return v; }
static inline __m256 v_max_of_halves(vf v) { return v; }

#endif

static inline float v_sum(vf v) {
    const __m256 eight = v_sum_of_halves(v);
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

static inline float v_highest(vf v) {
    const __m256 eight = v_max_of_halves(v);
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

static inline vf v_magnitude(vf x) { return v_and(x, (vf)v_ints_of(0x7fffffff)); }

/* e^x, relative error below 2e-7; x <= 0 is all that is asked of it. 2^n times a polynomial in the rest (Cephes' expf). */
static inline vf v_exp(vf x) {
    x = v_max(x, v_of(-87.0f));
    const vf n = v_nearest(x * v_of(1.44269504f));
    vf r = v_fnma(n, v_of(0.693359375f), x);
    r = v_fnma(n, v_of(-2.12194440e-4f), r);
    vf p = v_of(1.9875691500e-4f);
    p = v_fma(p, r, v_of(1.3981999507e-3f));
    p = v_fma(p, r, v_of(8.3334519073e-3f));
    p = v_fma(p, r, v_of(4.1665795894e-2f));
    p = v_fma(p, r, v_of(1.6666665459e-1f));
    p = v_fma(p, r, v_of(5.0000001201e-1f));
    p = v_fma(p * r, r, r + v_of(1.0f));
    return p * v_power_of_two(v_to_ints(n));
}

/* x * Phi(x) by the error function of Abramowitz and Stegun 7.1.26, absolute error of erf below 1.5e-7. */
static inline vf v_gelu(vf x) {
    const vf z = v_magnitude(x) * v_of(0.70710678f);
    const vf t = v_of(1.0f) / v_fma(z, v_of(0.3275911f), v_of(1.0f));
    vf p = v_of(1.061405429f);
    p = v_fma(p, t, v_of(-1.453152027f));
    p = v_fma(p, t, v_of(1.421413741f));
    p = v_fma(p, t, v_of(-0.284496736f));
    p = v_fma(p, t, v_of(0.254829592f));
    const vf tail = p * t * v_exp(-(z * z)); /* 1 - erf(z) */
    const vf erf = v_or(v_of(1.0f) - tail, v_and(v_of(-0.0f), x));
    return x * v_of(0.5f) * (v_of(1.0f) + erf);
}

/* 1 / (1 + e^-x), by e^-|x|, which does not overflow. */
static inline vf v_sigmoid(vf x) {
    const vf e = v_exp(-v_magnitude(x));
    return v_where_negative(x, e, v_of(1.0f)) / (v_of(1.0f) + e);
}

static inline vf v_silu(vf x) { return x * v_sigmoid(x); }

/* GELU's approximation by tanh: x/2 (1 + tanh(u)), which is x times the sigmoid of 2u; u = sqrt(2/pi) (x + 0.044715 x^3). */
static inline vf v_gelu_tanh(vf x) {
    const vf u = x * v_fma(x * x, v_of(0.79788456f * 0.044715f), v_of(0.79788456f));
    return x * v_sigmoid(u + u);
}
