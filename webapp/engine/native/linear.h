/* y = W x + b with W in int8 and x quantised row by row.
 *
 * AVX2 has no instruction that sums four int8 products into 32 bits. `maddubs` sums two into 16 bits and saturates, so
 * kernels usually widen after each one, which is half of their work. Here two of its results are added in 16 bits and
 * widened once. Nothing can overflow: weights are scaled (see pack.py) so that the four products that share a 16-bit
 * lane stay below 2^15 for any x in 0..255.
 */
#pragma once
#include "vector.h"

#define PANEL 16 /* outputs computed together: two registers of eight */
#define ROWS 4   /* rows computed together; with two registers each, all sixteen are in use */
#define STEP 8   /* inputs a step: two `maddubs` */

typedef struct {
    const int8_t *weights; /* [outputs / PANEL][inputs / 4][PANEL][4] */
    const float *scales;   /* [outputs]: real weight = scale * int8 */
    const float *sums;     /* [outputs]: sum of the int8 weights, for the zero point of x */
    const float *bias;     /* [outputs] */
    int32_t inputs, outputs;
} Linear;

typedef struct {
    uint8_t *values; /* [rows][inputs] */
    float *scales;   /* [rows] */
    float *zeros;    /* [rows]: x = scale * (value - zero) */
} Quantised;

/* Row by row to 0..255 over its own range, zero exactly held. */
static void quantise(const float *x, int rows, int width, Quantised out) {
    for (int row = 0; row < rows; row++, x += width, out.values += width) {
        f8 low = _mm256_setzero_ps(), high = _mm256_setzero_ps();
        for (int at = 0; at < width; at += LANES) {
            f8 v = f8_load(x + at);
            low = _mm256_min_ps(low, v);
            high = _mm256_max_ps(high, v);
        }
        float least = -f8_max(_mm256_sub_ps(_mm256_setzero_ps(), low));
        float range = f8_max(high) - least;
        float scale = range > 0 ? range / 255.0f : 1.0f;
        float zero = rintf(-least / scale);
        out.scales[row] = scale;
        out.zeros[row] = zero;
        const f8 inverse = f8_of(1.0f / scale), shift = f8_of(zero);
        for (int at = 0; at < width; at += 4 * LANES) {
            i8 part[4] = {0};
            for (int i = 0; i < 4 && at + i * LANES < width; i++)
                part[i] = _mm256_cvtps_epi32(_mm256_fmadd_ps(f8_load(x + at + i * LANES), inverse, shift));
            /* Packing works within halves; the permutation puts the fours of bytes back in order. */
            i8 bytes = _mm256_packus_epi16(_mm256_packs_epi32(part[0], part[1]), _mm256_packs_epi32(part[2], part[3]));
            bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
            if (at + 4 * LANES <= width)
                _mm256_storeu_si256((i8 *)(out.values + at), bytes);
            else
                _mm_storeu_si128((__m128i *)(out.values + at), _mm256_castsi256_si128(bytes));
        }
    }
}

enum After { NOTHING, GELU };

static inline __attribute__((always_inline)) void
panel(const Linear *layer, int first, const Quantised *x, int row, int rows, float *out, int stride, enum After after) {
    const int inputs = layer->inputs;
    const int8_t *weights = layer->weights + (int64_t)first * inputs;
    const uint8_t *values = x->values + (int64_t)row * inputs;
    const i8 ones = _mm256_set1_epi16(1);
    i8 sums[ROWS][2];
    for (int r = 0; r < rows; r++) sums[r][0] = sums[r][1] = _mm256_setzero_si256();
    for (int k = 0; k < inputs; k += STEP, weights += STEP * PANEL) {
        const i8 w0 = _mm256_loadu_si256((const i8 *)weights), w1 = _mm256_loadu_si256((const i8 *)(weights + 32));
        const i8 w2 = _mm256_loadu_si256((const i8 *)(weights + 64)), w3 = _mm256_loadu_si256((const i8 *)(weights + 96));
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            const uint8_t *at = values + (int64_t)r * inputs + k;
            const i8 x0 = _mm256_set1_epi32(*(const int32_t *)at), x1 = _mm256_set1_epi32(*(const int32_t *)(at + 4));
            i8 left = _mm256_add_epi16(_mm256_maddubs_epi16(x0, w0), _mm256_maddubs_epi16(x1, w2));
            i8 right = _mm256_add_epi16(_mm256_maddubs_epi16(x0, w1), _mm256_maddubs_epi16(x1, w3));
            sums[r][0] = _mm256_add_epi32(sums[r][0], _mm256_madd_epi16(left, ones));
            sums[r][1] = _mm256_add_epi32(sums[r][1], _mm256_madd_epi16(right, ones));
        }
    }
    for (int half = 0; half < 2; half++) {
        const int at = first + half * LANES;
        const f8 scales = f8_load(layer->scales + at), all = f8_load(layer->sums + at), bias = f8_load(layer->bias + at);
        for (int r = 0; r < rows; r++) {
            f8 y = _mm256_fnmadd_ps(f8_of(x->zeros[row + r]), all, _mm256_cvtepi32_ps(sums[r][half]));
            y = _mm256_fmadd_ps(y, _mm256_mul_ps(scales, f8_of(x->scales[row + r])), bias);
            f8_store(out + (int64_t)(row + r) * stride + half * LANES, after == GELU ? f8_gelu(y) : y);
        }
    }
}

/* Outputs [from, to) of a layer for all rows: out[row][to - from], rows `stride` floats apart. */
static inline __attribute__((always_inline)) void
linear(const Linear *layer, int from, int to, const Quantised *x, int rows, float *out, int stride, enum After after) {
    for (int first = from; first < to; first += PANEL, out += PANEL) { /* a panel of weights stays in the first cache */
        int row = 0;
        for (; row + ROWS <= rows; row += ROWS) panel(layer, first, x, row, ROWS, out, stride, after);
        for (; row < rows; row++) panel(layer, first, x, row, 1, out, stride, after);
    }
}
