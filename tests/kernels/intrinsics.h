/* Stand-ins for the instructions of x86, so that kernels for any of its processors run on any machine: SIMDe's, and what its
 * version 0.7.4 lacks. Slow: for right and wrong, never for speed.
 */
#pragma once
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <math.h>
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>
#include <stdint.h>
#include <string.h>

/* Define NAME(a) as a function that computes each of the lanes OUT[i] from IN[i]. */
#define LANE_BY_LANE(NAME, FROM, IN, TO, OUT, EXPRESSION) \
    static inline TO stand_in##NAME(FROM a) {             \
        IN in[sizeof(FROM) / sizeof(IN)];                 \
        OUT out[sizeof(TO) / sizeof(OUT)];                \
        TO result;                                        \
        memcpy(in, &a, sizeof a);                         \
        for (unsigned i = 0; i < sizeof out / sizeof *out; i++) out[i] = (OUT)(EXPRESSION); \
        memcpy(&result, out, sizeof result);              \
        return result;                                    \
    }

LANE_BY_LANE(_mm512_cvtepi32_ps, simde__m512i, int32_t, simde__m512, float, in[i])
LANE_BY_LANE(_mm512_cvtps_epi32, simde__m512, float, simde__m512i, int32_t, lrintf(in[i]))
LANE_BY_LANE(_mm512_cvtepi8_epi32, simde__m128i, int8_t, simde__m512i, int32_t, in[i])
LANE_BY_LANE(_mm512_cvtusepi32_epi8, simde__m512i, uint32_t, simde__m128i, uint8_t, in[i] > 255 ? 255 : in[i])
LANE_BY_LANE(_mm512_upper_half, simde__m512, float, simde__m256, float, in[i + 8])

/* SIMDe rounds twice where the instruction rounds once. */
#define FUSED(NAME, TYPE, SIGN)                                         \
    static inline TYPE stand_in##NAME(TYPE a, TYPE b, TYPE c) {         \
        float x[sizeof(TYPE) / 4], y[sizeof(TYPE) / 4], z[sizeof(TYPE) / 4]; \
        memcpy(x, &a, sizeof a), memcpy(y, &b, sizeof b), memcpy(z, &c, sizeof c); \
        for (unsigned i = 0; i < sizeof x / 4; i++) z[i] = fmaf(SIGN x[i], y[i], z[i]); \
        memcpy(&c, z, sizeof c);                                        \
        return c;                                                       \
    }

FUSED(_mm256_fmadd_ps, simde__m256, )
FUSED(_mm256_fnmadd_ps, simde__m256, -)
FUSED(_mm512_fmadd_ps, simde__m512, )
FUSED(_mm512_fnmadd_ps, simde__m512, -)

static inline simde__m256i stand_in_mm256_dpbusd(simde__m256i sums, simde__m256i unsigned_bytes, simde__m256i signed_bytes) {
    int32_t out[8];
    uint8_t x[32];
    int8_t w[32];
    memcpy(out, &sums, 32), memcpy(x, &unsigned_bytes, 32), memcpy(w, &signed_bytes, 32);
    for (int i = 0; i < 32; i++) out[i / 4] += x[i] * w[i];
    memcpy(&sums, out, 32);
    return sums;
}

#define _MM_FROUND_NO_EXC SIMDE_MM_FROUND_NO_EXC
#define _mm512_extractf32x8_ps(a, upper) stand_in_mm512_upper_half(a)
#define _mm512_cvtepi32_ps stand_in_mm512_cvtepi32_ps
#define _mm512_cvtps_epi32 stand_in_mm512_cvtps_epi32
#define _mm512_cvtepi8_epi32 stand_in_mm512_cvtepi8_epi32
#define _mm512_cvtusepi32_epi8 stand_in_mm512_cvtusepi32_epi8
#define _mm256_dpbusd_avx_epi32 stand_in_mm256_dpbusd
#undef _mm256_fmadd_ps
#undef _mm256_fnmadd_ps
#undef _mm512_fmadd_ps
#undef _mm512_fnmadd_ps
#define _mm256_fmadd_ps stand_in_mm256_fmadd_ps
#define _mm256_fnmadd_ps stand_in_mm256_fnmadd_ps
#define _mm512_fmadd_ps stand_in_mm512_fmadd_ps
#define _mm512_fnmadd_ps stand_in_mm512_fnmadd_ps
