/* softmax(Q K^T) V for one head of one sequence, in float32. The queries are expected to be scaled already.
 *
 * Sequences lie one after the other unpadded, so the only mask is a decoder's: a token sees none that come after it. What
 * a query's result is made of, and in which order, depends on the tokens that it sees and on nothing else.
 */
#pragma once
#include <string.h>
#include "vector.h"

#define BLOCK (2 * LANES)               /* keys computed together */
#define QUERIES (LANES == 16 ? 8 : 4)   /* queries computed together */

static inline int rounded(int length) { return (length + BLOCK - 1) / BLOCK * BLOCK; }

/* A sequence's keys and values of a head. */
typedef struct {
    const float *keys;   /* [dim][rounded(length)], zero past the end */
    const float *values; /* [length][stride] */
    int stride, length, dim;
} Seen;

/* keys[count][stride] -> out[dim][wide], `at` tokens from its start. */
static void transpose(const float *keys, int stride, int count, int dim, int at, float *out, int wide) {
    for (int token = 0; token < count; token += LANES) { /* some tokens at once: the lines that are written stay near */
        const int end = count - token < LANES ? count : token + LANES;
        for (int d = 0; d < dim; d++)
            for (int t = token; t < end; t++) out[(int64_t)d * wide + at + t] = keys[(int64_t)t * stride + d];
    }
}

/* Zero past the end of transposed keys. */
static void clear_rest(float *keys, int length, int dim) {
    const int wide = rounded(length);
    for (int d = 0; d < dim; d++)
        for (int at = length; at < wide; at++) keys[(int64_t)d * wide + at] = 0;
}

/* Row r of these sees the first `sees + r * more` tokens. */
static inline __attribute__((always_inline)) void
weigh(const float *queries, int stride, int rows, const Seen *seen, int sees, int more, float *out, float *sums) {
    const int wide = rounded(seen->length), end = rounded(sees + (rows - 1) * more);
    for (int at = 0; at < end; at += BLOCK) {
        vf dots[QUERIES][2];
        for (int r = 0; r < rows; r++) dots[r][0] = dots[r][1] = v_of(0);
        const float *keys = seen->keys + at;
        for (int d = 0; d < seen->dim; d++, keys += wide) {
            const vf k0 = v_load(keys), k1 = v_load(keys + LANES);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                const vf q = v_of(queries[(int64_t)r * stride + d]);
                dots[r][0] = v_fma(q, k0, dots[r][0]);
                dots[r][1] = v_fma(q, k1, dots[r][1]);
            }
        }
        for (int r = 0; r < rows; r++) {
            v_store(out + r * wide + at, dots[r][0]);
            v_store(out + r * wide + at + LANES, dots[r][1]);
        }
    }
    for (int r = 0; r < rows; r++) {
        float *row = out + r * wide;
        const int length = sees + r * more;
        for (int at = length; at < end; at++) row[at] = -INFINITY;
        vf most = v_of(-INFINITY), sum = v_of(0);
        for (int at = 0; at < end; at += LANES) most = v_max(most, v_load(row + at));
        const vf top = v_of(v_highest(most));
        for (int at = 0; at < end; at += LANES) {
            const vf weight = v_exp(v_load(row + at) - top);
            v_store(row + at, weight);
        }
        for (int at = length; at < end; at++) row[at] = 0; /* e^-87 is small but not nothing */
        for (int at = 0; at < end; at += LANES) sum = sum + v_load(row + at);
        sums[r] = v_sum(sum);
    }
}

/* Columns [from, from + columns * LANES) of the result. */
static inline __attribute__((always_inline)) void
gather(const float *weights, const float *sums, int rows, const Seen *seen, int sees, int from, int columns, float *out,
       int out_stride) {
    const int wide = rounded(seen->length);
    const float *value = seen->values + from;
    vf mixed[QUERIES][2];
    for (int r = 0; r < rows; r++) mixed[r][0] = mixed[r][1] = v_of(0);
    for (int token = 0; token < sees; token++, value += seen->stride) {
        vf v[2];
        for (int c = 0; c < columns; c++) v[c] = v_load(value + c * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const vf weight = v_of(weights[(int64_t)r * wide + token]);
            for (int c = 0; c < columns; c++) mixed[r][c] = v_fma(weight, v[c], mixed[r][c]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++)
            v_store(out + (int64_t)r * out_stride + from + c * LANES, mixed[r][c] * v_of(1.0f / sums[r]));
}

static inline __attribute__((always_inline)) void
attend_few(const float *queries, int stride, int rows, const Seen *seen, int sees, int more, float *out, int out_stride,
           float *weights) {
    float sums[QUERIES];
    weigh(queries, stride, rows, seen, sees, more, weights, sums);
    const int most = sees + (rows - 1) * more;
    int from = 0;
    for (; from + 2 * LANES <= seen->dim; from += 2 * LANES) gather(weights, sums, rows, seen, most, from, 2, out, out_stride);
    if (from < seen->dim) gather(weights, sums, rows, seen, most, from, 1, out, out_stride);
}

/* queries: [asked][stride]; query i sees the first `sees + i * more` tokens, so `more` is 1 in a decoder and 0 where all
 * see all. out: [asked][out_stride]. weights: QUERIES * rounded(length) floats.
 */
static void attend(const float *queries, int stride, int asked, const Seen *seen, int sees, int more, float *out,
                   int out_stride, float *weights) {
    int row = 0;
    for (; row + QUERIES <= asked; row += QUERIES)
        attend_few(queries + (int64_t)row * stride, stride, QUERIES, seen, sees + row * more, more,
                   out + (int64_t)row * out_stride, out_stride, weights);
    for (; row < asked; row++)
        attend_few(queries + (int64_t)row * stride, stride, 1, seen, sees + row * more, 0, out + (int64_t)row * out_stride,
                   out_stride, weights);
}
