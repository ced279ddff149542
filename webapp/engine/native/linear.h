/* y = W x + b with W in int8 and x quantised row by row, both in groups of inputs that have a scale each.
 *
 * BERT's layers are one group. Decoders have channels whose values are a hundred times the others': a scale for each
 * group keeps their harm to the group that they are in.
 *
 * VNNI sums four int8 products into 32 bits at once. AVX2's `maddubs` sums two into 16 bits and saturates, so kernels
 * usually widen after each one, which is half of their work. Here two of its results are added in 16 bits and widened
 * once. Nothing can overflow: weights are scaled (see pack.py) so that the four products that share a 16-bit lane stay
 * below 2^15 for any x in 0..255. So both give the same sums, and one packed file serves both.
 */
#pragma once
#include "vector.h"

#define PANEL 16                       /* outputs computed together */
#define PARTS (PANEL / LANES)          /* registers of them */
#define ROWS (LANES == 16 ? 8 : 4)     /* rows computed together: as many as there are registers for */
#define STEP 8                         /* inputs a step */

typedef struct {
    const int8_t *weights; /* [outputs / PANEL][inputs / 4][PANEL][4] */
    const float *scales;   /* [outputs / PANEL][groups][PANEL]: real weight = scale * int8 */
    const float *sums;     /* the same: sums of a group's int8 weights, for the zero points of x */
    const float *bias;     /* [outputs] */
    int32_t inputs, outputs, group; /* group: inputs that share a scale; the last one may have fewer */
} Linear;

typedef struct {
    uint8_t *values; /* [rows][inputs] */
    float *scales;   /* [rows][groups] */
    float *zeros;    /* [rows][groups]: x = scale * (value - zero) */
} Quantised;

static inline int groups_of(int inputs, int group) { return (inputs + group - 1) / group; }

#if LANES == 16

static inline vi dot(vi sums, vi x0, vi w0, vi x1, vi w1) {
    return _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sums, x0, w0), x1, w1);
}

/* x * inverse + shift, saturated to bytes; `count`, a multiple of 16, of them. */
static inline void store_bytes(const float *x, int count, vf inverse, vf shift, uint8_t *out) {
    for (int at = 0; at < count; at += LANES) {
        const vi value = _mm512_max_epi32(v_to_ints(v_fma(v_load(x + at), inverse, shift)), _mm512_setzero_si512());
        _mm_storeu_si128((__m128i *)(out + at), _mm512_cvtusepi32_epi8(value));
    }
}

#else

static inline vi dot(vi sums, vi x0, vi w0, vi x1, vi w1) {
    const vi both = _mm256_add_epi16(_mm256_maddubs_epi16(x0, w0), _mm256_maddubs_epi16(x1, w1));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(both, _mm256_set1_epi16(1)));
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

#endif

/* To 0..255 over the range of each row's groups, zero exactly held. */
static void quantise(const float *x, int rows, int width, int group, Quantised out) {
    for (int row = 0; row < rows; row++)
        for (int from = 0; from < width; from += group) {
            const int count = width - from < group ? width - from : group;
            vf low = v_of(0), high = v_of(0);
            for (int at = 0; at < count; at += LANES) {
                const vf v = v_load(x + at);
                low = v_min(low, v);
                high = v_max(high, v);
            }
            const float least = -v_highest(v_of(0) - low), range = v_highest(high) - least;
            const float scale = range > 0 ? range / 255.0f : 1.0f, zero = rintf(-least / scale);
            *out.scales++ = scale;
            *out.zeros++ = zero;
            store_bytes(x, count, v_of(1.0f / scale), v_of(zero), out.values);
            x += count, out.values += count;
        }
}

enum After {
    NOTHING,
    GELU,
    GELU_TANH,
    SILU,
    TIMES, /* out is multiplied by the result */
    PLUS,  /* the result is added to out */
};

static inline __attribute__((always_inline)) vf after_of(enum After after, vf y, const float *out) {
    switch (after) {
        case GELU: return v_gelu(y);
        case GELU_TANH: return v_gelu_tanh(y);
        case SILU: return v_silu(y);
        case TIMES: return v_load(out) * y;
        case PLUS: return v_load(out) + y;
        default: return y;
    }
}

static inline __attribute__((always_inline)) void
tile(const Linear *layer, int first, const Quantised *x, int row, int rows, float *out, int stride, enum After after) {
    const int inputs = layer->inputs, groups = groups_of(inputs, layer->group);
    const int8_t *weights = layer->weights + (int64_t)first * inputs;
    const float *scales = layer->scales + (int64_t)first * groups, *all = layer->sums + (int64_t)first * groups;
    const uint8_t *values = x->values + (int64_t)row * inputs;
    const float *row_scales = x->scales + (int64_t)row * groups, *row_zeros = x->zeros + (int64_t)row * groups;
    vf y[ROWS][PARTS];
    for (int r = 0; r < rows; r++)
        for (int part = 0; part < PARTS; part++) y[r][part] = v_load(layer->bias + first + part * LANES);
    for (int at = 0, k = 0; at < groups; at++, scales += PANEL, all += PANEL) {
        vi sums[ROWS][PARTS];
        for (int r = 0; r < rows; r++)
            for (int part = 0; part < PARTS; part++) sums[r][part] = v_ints_of(0);
        const int end = inputs - k < layer->group ? inputs : k + layer->group;
        for (; k < end; k += STEP, weights += STEP * PANEL) {
            vi w0[PARTS], w1[PARTS];
            for (int part = 0; part < PARTS; part++) {
                w0[part] = v_load_bytes(weights + part * 4 * LANES);
                w1[part] = v_load_bytes(weights + 4 * PANEL + part * 4 * LANES);
            }
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                const uint8_t *v = values + (int64_t)r * inputs + k;
                const vi x0 = v_ints_of(*(const int32_t *)v), x1 = v_ints_of(*(const int32_t *)(v + 4));
                for (int part = 0; part < PARTS; part++) sums[r][part] = dot(sums[r][part], x0, w0[part], x1, w1[part]);
            }
        }
        for (int part = 0; part < PARTS; part++) {
            const vf scale = v_load(scales + part * LANES), sum = v_load(all + part * LANES);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                const vf product = v_fnma(v_of(row_zeros[(int64_t)r * groups + at]), sum, v_to_floats(sums[r][part]));
                y[r][part] = v_fma(product, scale * v_of(row_scales[(int64_t)r * groups + at]), y[r][part]);
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int part = 0; part < PARTS; part++) {
            float *to = out + (int64_t)(row + r) * stride + part * LANES;
            v_store(to, after_of(after, y[r][part], to));
        }
}

/* Outputs [from, to) of a layer for all rows: out[row][to - from], rows `stride` floats apart. */
static inline __attribute__((always_inline)) void
linear(const Linear *layer, int from, int to, const Quantised *x, int rows, float *out, int stride, enum After after) {
    for (int first = from; first < to; first += PANEL, out += PANEL) { /* a panel of weights stays in the first cache */
        int row = 0;
        for (; row + ROWS <= rows; row += ROWS) tile(layer, first, x, row, ROWS, out, stride, after);
        if (ROWS > 4 && rows - row >= 4) tile(layer, first, x, row, 4, out, stride, after), row += 4;
        if (rows - row >= 2) tile(layer, first, x, row, 2, out, stride, after), row += 2;
        if (rows - row >= 1) tile(layer, first, x, row, 1, out, stride, after);
    }
}
