/* softmax(Q K^T) V for one head of one sequence, in float32; no mask, since sequences lie one after the other unpadded.
 * The queries are expected to be scaled already.
 */
#pragma once
#include <string.h>
#include "vector.h"

#define BLOCK 16   /* keys computed together */
#define QUERIES 4  /* queries computed together */

static inline int rounded(int length) { return (length + BLOCK - 1) / BLOCK * BLOCK; }

/* keys[length][stride] -> out[dim][rounded(length)], zero past the end. */
static void transpose(const float *keys, int stride, int length, int dim, float *out) {
    const int wide = rounded(length);
    memset(out, 0, sizeof(float) * wide * dim);
    for (int token = 0; token < length; token++)
        for (int d = 0; d < dim; d++) out[d * wide + token] = keys[(int64_t)token * stride + d];
}

static inline __attribute__((always_inline)) void
weigh(const float *queries, int stride, int rows, const float *keys, int dim, int length, float *out, float *sums) {
    const int wide = rounded(length);
    for (int at = 0; at < wide; at += BLOCK) {
        f8 dots[QUERIES][2];
        for (int r = 0; r < rows; r++) dots[r][0] = dots[r][1] = _mm256_setzero_ps();
        for (int d = 0; d < dim; d++) {
            const f8 k0 = f8_load(keys + d * wide + at), k1 = f8_load(keys + d * wide + at + LANES);
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++) {
                const f8 q = f8_of(queries[(int64_t)r * stride + d]);
                dots[r][0] = _mm256_fmadd_ps(q, k0, dots[r][0]);
                dots[r][1] = _mm256_fmadd_ps(q, k1, dots[r][1]);
            }
        }
        for (int r = 0; r < rows; r++) {
            f8_store(out + r * wide + at, dots[r][0]);
            f8_store(out + r * wide + at + LANES, dots[r][1]);
        }
    }
    for (int r = 0; r < rows; r++) {
        float *row = out + r * wide;
        for (int at = length; at < wide; at++) row[at] = -INFINITY;
        f8 most = f8_of(-INFINITY), sum = _mm256_setzero_ps();
        for (int at = 0; at < wide; at += LANES) most = _mm256_max_ps(most, f8_load(row + at));
        const f8 top = f8_of(f8_max(most));
        for (int at = 0; at < wide; at += LANES) {
            f8 weight = f8_exp(_mm256_sub_ps(f8_load(row + at), top));
            f8_store(row + at, weight);
            sum = _mm256_add_ps(sum, weight);
        }
        for (int at = length; at < wide; at++) row[at] = 0; /* e^-87 is small but not nothing */
        sums[r] = f8_sum(sum);
    }
}

static inline __attribute__((always_inline)) void
gather(const float *weights, const float *sums, int rows, const float *values, int stride, int length, int dim, float *out,
       int out_stride) {
    const int wide = rounded(length);
    for (int d = 0; d < dim; d += 2 * LANES) {
        f8 mixed[QUERIES][2];
        for (int r = 0; r < rows; r++) mixed[r][0] = mixed[r][1] = _mm256_setzero_ps();
        for (int token = 0; token < length; token++) {
            const float *value = values + (int64_t)token * stride + d;
            const f8 v0 = f8_load(value), v1 = f8_load(value + LANES);
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++) {
                const f8 weight = f8_of(weights[r * wide + token]);
                mixed[r][0] = _mm256_fmadd_ps(weight, v0, mixed[r][0]);
                mixed[r][1] = _mm256_fmadd_ps(weight, v1, mixed[r][1]);
            }
        }
        for (int r = 0; r < rows; r++) {
            const f8 inverse = f8_of(1.0f / sums[r]);
            f8_store(out + (int64_t)r * out_stride + d, _mm256_mul_ps(mixed[r][0], inverse));
            f8_store(out + (int64_t)r * out_stride + d + LANES, _mm256_mul_ps(mixed[r][1], inverse));
        }
    }
}

/* queries, keys, values: [length][stride] (queries: the first `asked` rows); out: [asked][out_stride].
 * scratch: (dim + QUERIES) * rounded(length) floats.
 */
static void attend(const float *queries, const float *keys, const float *values, int stride, int asked, int length, int dim,
                   float *out, int out_stride, float *scratch) {
    float *turned = scratch, *weights = scratch + (int64_t)dim * rounded(length);
    float sums[QUERIES];
    transpose(keys, stride, length, dim, turned);
    int row = 0;
    for (; row + QUERIES <= asked; row += QUERIES) {
        weigh(queries + (int64_t)row * stride, stride, QUERIES, turned, dim, length, weights, sums);
        gather(weights, sums, QUERIES, values, stride, length, dim, out + (int64_t)row * out_stride, out_stride);
    }
    for (; row < asked; row++) {
        weigh(queries + (int64_t)row * stride, stride, 1, turned, dim, length, weights, sums);
        gather(weights, sums, 1, values, stride, length, dim, out + (int64_t)row * out_stride, out_stride);
    }
}
