/* Eight floats at a time: exponential, GELU, sums. AVX2 and FMA. */
#pragma once
#include <immintrin.h>
#include <math.h>
#include <stdint.h>

typedef __m256 f8;
typedef __m256i i8;

#define LANES 8

static inline f8 f8_load(const float *at) { return _mm256_loadu_ps(at); }
static inline void f8_store(float *at, f8 value) { _mm256_storeu_ps(at, value); }
static inline f8 f8_of(float value) { return _mm256_set1_ps(value); }

static inline float f8_sum(f8 v) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

static inline float f8_max(f8 v) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

/* e^x, relative error below 2e-7; x <= 0 is all that is asked of it. 2^n times a polynomial in the rest (Cephes' expf). */
static inline f8 f8_exp(f8 x) {
    x = _mm256_max_ps(x, f8_of(-87.0f));
    f8 n = _mm256_round_ps(_mm256_mul_ps(x, f8_of(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    f8 r = _mm256_fnmadd_ps(n, f8_of(0.693359375f), x);
    r = _mm256_fnmadd_ps(n, f8_of(-2.12194440e-4f), r);
    f8 p = f8_of(1.9875691500e-4f);
    p = _mm256_fmadd_ps(p, r, f8_of(1.3981999507e-3f));
    p = _mm256_fmadd_ps(p, r, f8_of(8.3334519073e-3f));
    p = _mm256_fmadd_ps(p, r, f8_of(4.1665795894e-2f));
    p = _mm256_fmadd_ps(p, r, f8_of(1.6666665459e-1f));
    p = _mm256_fmadd_ps(p, r, f8_of(5.0000001201e-1f));
    p = _mm256_fmadd_ps(_mm256_mul_ps(p, r), r, _mm256_add_ps(r, f8_of(1.0f)));
    i8 power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(p, _mm256_castsi256_ps(power));
}

/* x * Phi(x) by the error function of Abramowitz and Stegun 7.1.26, absolute error of erf below 1.5e-7. */
static inline f8 f8_gelu(f8 x) {
    const f8 sign = f8_of(-0.0f);
    f8 z = _mm256_mul_ps(_mm256_andnot_ps(sign, x), f8_of(0.70710678f));
    f8 t = _mm256_div_ps(f8_of(1.0f), _mm256_fmadd_ps(z, f8_of(0.3275911f), f8_of(1.0f)));
    f8 p = f8_of(1.061405429f);
    p = _mm256_fmadd_ps(p, t, f8_of(-1.453152027f));
    p = _mm256_fmadd_ps(p, t, f8_of(1.421413741f));
    p = _mm256_fmadd_ps(p, t, f8_of(-0.284496736f));
    p = _mm256_fmadd_ps(p, t, f8_of(0.254829592f));
    f8 tail = _mm256_mul_ps(_mm256_mul_ps(p, t), f8_exp(_mm256_xor_ps(sign, _mm256_mul_ps(z, z)))); /* 1 - erf(z) */
    f8 erf = _mm256_or_ps(_mm256_sub_ps(f8_of(1.0f), tail), _mm256_and_ps(sign, x));
    return _mm256_mul_ps(_mm256_mul_ps(x, f8_of(0.5f)), _mm256_add_ps(f8_of(1.0f), erf));
}
