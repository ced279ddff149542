/* The operations of ops.h, written once for registers of any width. A file ops_*.c includes this after a vector_*.h, which
 * says what a register holds, and after `dot_bytes`; it names the table that is made here OPS.
 *
 * Of finite numbers results are equal to the bit whatever a register holds: a sum over a row is made of PANEL sums of every sixteenth number,
 * halved until one is left (`total`), and all other sums go from the first term to the last. So a score does not depend on
 * the processor. (It has to be so: rounding to int8 makes a difference of 1e-7 in one layer one of 0.03 in a logit.)
 *
 * Operators work on vectors lane by lane.
 */
#pragma once
#include <math.h>
#include "ops.h"

#define PARTS (PANEL / LANES)   /* registers of a panel's outputs */
#define BLOCK (COLUMNS * LANES) /* keys computed together */

#define INLINE static inline __attribute__((always_inline))

#ifndef FIRST_SUMS
#define FIRST_SUMS(sums_of_weights) ((void)(sums_of_weights), v_ints_of(0))
#define BYTES_OF(x) (x)
#endif

/* The sum of all numbers in a panel's registers. */
INLINE float total(const vf sums[PARTS]) {
    vf sum = sums[0];
    if (PARTS == 2) sum = sum + sums[1 % PARTS];
    if (PARTS == 4) sum = (sum + sums[2 % PARTS]) + (sums[1 % PARTS] + sums[3 % PARTS]);
    return v_sum(sum);
}

/* Functions of several registers at once. Each step is done for all of them before the next: the steps of one wait for each
 * other, and a processor sees only some dozens of instructions ahead.
 */
#define AT_ONCE 4
#define EACH for (int i = 0; i < count; i++)

/* 2^y for y <= 0, relative error below 2e-7 (2e-38 for what is smaller): a power of two times a polynomial in the rest. */
INLINE void exp2_of(vf *y, int count) {
    vf n[AT_ONCE], p[AT_ONCE];
    EACH y[i] = v_max(y[i], v_of(-125.0f));
    EACH n[i] = v_nearest(y[i]);
    EACH y[i] = y[i] - n[i];
    EACH p[i] = v_fma(y[i], v_of(1.327645461e-3f), v_of(9.675540368e-3f));
    EACH p[i] = v_fma(p[i], y[i], v_of(5.550713310e-2f));
    EACH p[i] = v_fma(p[i], y[i], v_of(2.402211974e-1f));
    EACH p[i] = v_fma(p[i], y[i], v_of(6.931469671e-1f));
    EACH p[i] = v_fma(p[i], y[i], v_of(1.0f));
    EACH y[i] = v_scale(p[i], v_to_ints(n[i]));
}

#define LOG2_E 1.44269504f

/* x * Phi(x), absolute error below 6e-7. That is max(x, 0) - |x| / 2 * (1 - erf(|x| / sqrt 2)), and what is in the brackets is
 * a polynomial to the power of -16 (the form of Abramowitz and Stegun 7.1.28, its coefficients fitted to GELU's error).
 */
INLINE void gelu_of(vf *x, int count) {
    vf z[AT_ONCE], p[AT_ONCE];
    EACH z[i] = v_magnitude(x[i]);
    EACH p[i] = v_fma(z[i], v_of(6.331517852e-6f), v_of(4.139322846e-5f));
    EACH p[i] = v_fma(p[i], z[i], v_of(5.969842096e-5f));
    EACH p[i] = v_fma(p[i], z[i], v_of(3.249328583e-3f));
    EACH p[i] = v_fma(p[i], z[i], v_of(2.115730010e-2f));
    EACH p[i] = v_fma(p[i], z[i], v_of(4.986413568e-2f));
    EACH p[i] = v_fma(p[i], z[i], v_of(1.0f));
    EACH p[i] = v_of(1.0f) / p[i];
    EACH p[i] = p[i] * p[i];
    EACH p[i] = p[i] * p[i];
    EACH p[i] = p[i] * p[i];
    EACH p[i] = p[i] * p[i];
    EACH x[i] = v_fnma(z[i] * v_of(0.5f), p[i], v_max(x[i], v_of(0)));
}

/* x / (1 + e^-by) = x e^by / (1 + e^by), by e^-|by|, which does not overflow. */
INLINE void times_sigmoid_of(vf *x, const vf *by, int count) {
    vf e[AT_ONCE];
    EACH e[i] = v_magnitude(by[i]) * v_of(-LOG2_E);
    exp2_of(e, count);
    EACH x[i] = x[i] * (v_where_negative(by[i], e[i], v_of(1.0f)) / (v_of(1.0f) + e[i]));
}

/* GELU's approximation by tanh: x/2 (1 + tanh(u)), which is x times the sigmoid of 2u; u = sqrt(2/pi) (x + 0.044715 x^3). */
INLINE void gelu_tanh_of(vf *x, int count) {
    vf u[AT_ONCE];
    EACH u[i] = x[i] * v_fma(x[i] * x[i], v_of(2 * 0.79788456f * 0.044715f), v_of(2 * 0.79788456f));
    times_sigmoid_of(x, u, count);
}

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
            const float scale = range > LEAST_RANGE ? range / 255.0f : 1.0f;
            const float zero = rintf(-least / scale) + 0.0f; /* not -0 */
            *out.scales++ = scale;
            *out.zeros++ = zero;
            store_bytes(x, count, v_of(1.0f / scale), v_of(zero), out.values);
            x += count, out.values += count;
        }
}

/* Do what comes after a product with a panel's outputs of one row, and put them out. */
INLINE void finish(int after, vf y[PARTS], float *out) {
    switch (after) {
        case GELU: gelu_of(y, PARTS); break;
        case GELU_TANH: gelu_tanh_of(y, PARTS); break;
        case SILU: times_sigmoid_of(y, y, PARTS); break;
        case RELU:
            for (int part = 0; part < PARTS; part++) y[part] = v_max(y[part], v_of(0));
            break;
        case TIMES:
            for (int part = 0; part < PARTS; part++) y[part] = v_load(out + part * LANES) * y[part];
            break;
        case PLUS:
            for (int part = 0; part < PARTS; part++) y[part] = v_load(out + part * LANES) + y[part];
            break;
        case NOTHING: break;
    }
    for (int part = 0; part < PARTS; part++) v_store(out + part * LANES, y[part]);
}

INLINE vi four_bytes(const uint8_t *at) {
    int32_t four;
    memcpy(&four, at, sizeof four);
    return BYTES_OF(v_ints_of(four));
}

/* A panel's outputs for some rows, from `row` on. */
INLINE void tile(const Linear *layer, int first, const Quantised *x, int row, int rows, float *out, int stride, int after) {
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
            for (int part = 0; part < PARTS; part++) sums[r][part] = FIRST_SUMS(v_load(all + part * LANES));
        const int end = inputs - k < layer->group ? inputs : k + layer->group;
        for (; k < end; k += STEP, weights += STEP * PANEL) {
            const int8_t *w = weights;
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                const uint8_t *v = values + (int64_t)r * inputs + k;
                const vi x0 = four_bytes(v), x1 = four_bytes(v + 4);
                if (LANES == 8) __asm__("" : "+r"(w)); /* read again for each row: no register is left to keep weights in */
#pragma GCC unroll 4
                for (int part = 0; part < PARTS; part++) {
                    sums[r][part] = dot_bytes(sums[r][part], x0, w + part * 4 * LANES, x1, w + 4 * PANEL + part * 4 * LANES);
                    KEEP_IN_REGISTER(sums[r][part]);
                }
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
    for (int r = 0; r < rows; r++) finish(after, y[r], out + (int64_t)(row + r) * stride);
}

static void
multiply(const Linear *layer, int from, int to, const Quantised *x, int rows, float *out, int stride, int after) {
    for (int first = from; first < to; first += PANEL, out += PANEL) { /* a panel of weights stays in the first cache */
        int row = 0;
        for (; row + ROWS <= rows; row += ROWS) tile(layer, first, x, row, ROWS, out, stride, after);
        if (ROWS > 4 && rows - row >= 4) tile(layer, first, x, row, 4, out, stride, after), row += 4;
        if (rows - row >= 2) tile(layer, first, x, row, 2, out, stride, after), row += 2;
        if (rows - row >= 1) tile(layer, first, x, row, 1, out, stride, after);
    }
}

static int rounded(int length) { return (length + BLOCK - 1) / BLOCK * BLOCK; }

/* Keys lie in blocks of BLOCK tokens, [dim][BLOCK] each, zero past the end; values and weights [length][dim] and
 * [QUERIES][rounded(length)].
 */
static size_t seen_floats(int dim, int length) { return (size_t)rounded(length) * (2 * dim + QUERIES); }

static Seen see(float *memory, int dim, int length) {
    const int wide = rounded(length);
    const Seen seen = {memory, memory + (int64_t)wide * dim, memory + (int64_t)wide * 2 * dim, dim, length};
    for (int d = 0; d < dim; d++)
        for (int token = length; token < wide; token++) seen.keys[(int64_t)(wide - BLOCK) * dim + d * BLOCK + token % BLOCK] = 0;
    return seen;
}

static void hold(const Seen *seen, const float *keys, const float *values, int stride, int count, int at) {
    const int dim = seen->dim;
    for (int token = at; token < at + count; token++, keys += stride, values += stride) {
        float *to = seen->keys + (int64_t)(token / BLOCK) * BLOCK * dim + token % BLOCK;
        for (int d = 0; d < dim; d++) to[d * BLOCK] = keys[d];
        memcpy(seen->values + (int64_t)token * dim, values, dim * sizeof(float));
    }
}

/* The first `count` numbers of a register, and the others in place of the rest. */
INLINE vf first_of(int count, vf v, vf others) {
    static const union {
        int32_t bits[2 * PANEL];
        float floats[2 * PANEL];
    } SHOWN = {{-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1}};
    const int shown = count < 0 ? 0 : count < LANES ? count : LANES;
    return v_where_negative(v_load(SHOWN.floats + PANEL - shown), v, others);
}

/* Numbers [from, to) of a register, and `others` in place of the rest. */
INLINE vf those_of(int from, int to, vf v, vf others) { return first_of(from, others, first_of(to, v, others)); }

/* The tokens that one of some queries sees. */
INLINE int first_seen(Sight sight, int query) { return sight.from + query * sight.more < 0 ? 0 : sight.from + query * sight.more; }

INLINE int end_seen(const Seen *seen, Sight sight, int query) {
    const int end = sight.to + query * sight.more;
    return end < seen->length ? end : seen->length;
}

/* Products of some queries and keys [begin, end), which are all that any of them sees, and the largest of each that it sees
 * itself.
 */
INLINE void weigh(const float *queries, int stride, int rows, const Seen *seen, Sight sight, int begin, int end, vf *most) {
    const int wide = rounded(seen->length), all_from = first_seen(sight, rows - 1), all_to = end_seen(seen, sight, 0);
    for (int r = 0; r < rows; r++) most[r] = v_of(-INFINITY);
    for (int at = begin; at < end; at += BLOCK) {
        vf dots[QUERIES][COLUMNS];
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < COLUMNS; c++) dots[r][c] = v_of(0);
        const float *keys = seen->keys + (int64_t)at * seen->dim;
        for (int d = 0; d < seen->dim; d++, keys += BLOCK) {
            vf k[COLUMNS];
            for (int c = 0; c < COLUMNS; c++) k[c] = v_load(keys + c * LANES);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                const vf q = v_of(queries[(int64_t)r * stride + d]);
                for (int c = 0; c < COLUMNS; c++) dots[r][c] = v_fma(q, k[c], dots[r][c]);
            }
        }
        const int all_seen = all_from <= at && at + BLOCK <= all_to;
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < COLUMNS; c++) {
                const int here = at + c * LANES, from = first_seen(sight, r) - here, to = end_seen(seen, sight, r) - here;
                v_store(seen->weights + (int64_t)r * wide + here, dots[r][c]);
                most[r] = v_max(most[r], all_seen ? dots[r][c] : those_of(from, to, dots[r][c], v_of(-INFINITY)));
            }
    }
}

/* The same as below of one panel of tokens, of which the query sees [from, to). */
INLINE void some_exponentials(float *row, int from, int to, vf top, vf sums[PARTS]) {
    for (int part = 0; part < PARTS; part++) {
        float *here = row + part * LANES;
        vf weight = (v_load(here) - top) * v_of(LOG2_E);
        exp2_of(&weight, 1);
        weight = those_of(from - part * LANES, to - part * LANES, weight, v_of(0));
        v_store(here, weight);
        sums[part] = sums[part] + weight;
    }
}

/* e^(product - largest) of tokens [begin, end) for a query that sees [from, to), 0 for the others; returns their sum. */
INLINE float exponentials(float *row, int begin, int end, int from, int to, vf most) {
    const vf top = v_of(v_highest(most));
    vf sums[PARTS], weights[AT_ONCE];
    for (int part = 0; part < PARTS; part++) sums[part] = v_of(0);
    int at = begin;
    for (; at < from && at < end; at += PANEL) some_exponentials(row + at, from - at, to - at, top, sums);
    for (; at + AT_ONCE * LANES <= to; at += AT_ONCE * LANES) {
        for (int i = 0; i < AT_ONCE; i++) weights[i] = (v_load(row + at + i * LANES) - top) * v_of(LOG2_E);
        exp2_of(weights, AT_ONCE);
        for (int i = 0; i < AT_ONCE; i++) v_store(row + at + i * LANES, weights[i]);
        for (int i = 0; i < AT_ONCE; i++) sums[i % PARTS] = sums[i % PARTS] + weights[i];
    }
    for (; at < end; at += PANEL) some_exponentials(row + at, from - at, to - at, top, sums);
    return total(sums);
}

/* Columns [from, from + columns * LANES) of the result. */
INLINE void gather(const Seen *seen, const float *sums, int rows, int first, int last, int from, int columns, float *out, int stride) {
    const int wide = rounded(seen->length);
    const float *value = seen->values + (int64_t)first * seen->dim + from;
    vf mixed[QUERIES][COLUMNS];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) mixed[r][c] = v_of(0);
    for (int token = first; token < last; token++, value += seen->dim) {
        vf v[COLUMNS];
        for (int c = 0; c < columns; c++) v[c] = v_load(value + c * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const vf weight = v_of(seen->weights[(int64_t)r * wide + token]);
            for (int c = 0; c < columns; c++) mixed[r][c] = v_fma(weight, v[c], mixed[r][c]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++)
            v_store(out + (int64_t)r * stride + from + c * LANES, mixed[r][c] * v_of(1.0f / sums[r]));
}

/* Attention of queries [row, row + rows). */
INLINE void attend_few(const Seen *seen, const float *queries, int stride, int row, int rows, Sight sight, float *out, int out_stride) {
    sight.from += row * sight.more, sight.to += row * sight.more;
    const int first = first_seen(sight, 0), last = end_seen(seen, sight, rows - 1), wide = rounded(seen->length);
    const int begin = first / BLOCK * BLOCK, end = rounded(last);
    vf most[QUERIES];
    float sums[QUERIES];
    weigh(queries + (int64_t)row * stride, stride, rows, seen, sight, begin, end, most);
    for (int r = 0; r < rows; r++)
        sums[r] = exponentials(seen->weights + (int64_t)r * wide, begin, end, first_seen(sight, r), end_seen(seen, sight, r), most[r]);
    out += (int64_t)row * out_stride;
    int from = 0;
    for (; from + BLOCK <= seen->dim; from += BLOCK) gather(seen, sums, rows, first, last, from, COLUMNS, out, out_stride);
    if (from < seen->dim) gather(seen, sums, rows, first, last, from, PARTS % COLUMNS, out, out_stride);
}

static void attend(const Seen *seen, const float *queries, int stride, int asked, Sight sight, float *out, int out_stride) {
    int row = 0;
    for (; row + QUERIES <= asked; row += QUERIES) attend_few(seen, queries, stride, row, QUERIES, sight, out, out_stride);
    for (int few = QUERIES / 2; few > 0; few /= 2)
        for (; row + few <= asked; row += few)
            switch (few) { /* so that each is compiled for its number of rows */
                case 4: attend_few(seen, queries, stride, row, 4, sight, out, out_stride); break;
                case 3: attend_few(seen, queries, stride, row, 3, sight, out, out_stride); break;
                case 2: attend_few(seen, queries, stride, row, 2, sight, out, out_stride); break;
                default: attend_few(seen, queries, stride, row, 1, sight, out, out_stride);
            }
}

static void layer_norm(float *x, const float *y, int rows, int width, const float *gain, const float *shift, float epsilon) {
    for (int row = 0; row < rows; row++, x += width) {
        vf sums[PARTS], squares[PARTS];
        for (int part = 0; part < PARTS; part++) sums[part] = squares[part] = v_of(0);
        for (int at = 0; at < width; at += PANEL)
            for (int part = 0; part < PARTS; part++) {
                float *here = x + at + part * LANES;
                vf v = v_load(here);
                if (y) v = v + v_load(y + (int64_t)row * width + at + part * LANES);
                v_store(here, v);
                sums[part] = sums[part] + v;
            }
        const vf mean = v_of(total(sums) / (float)width);
        for (int at = 0; at < width; at += PANEL)
            for (int part = 0; part < PARTS; part++) {
                const vf v = v_load(x + at + part * LANES) - mean;
                squares[part] = v_fma(v, v, squares[part]);
            }
        const vf inverse = v_of(1.0f / sqrtf(total(squares) / (float)width + epsilon));
        for (int at = 0; at < width; at += LANES)
            v_store(x + at, v_fma((v_load(x + at) - mean) * inverse, v_load(gain + at), v_load(shift + at)));
    }
}

static float dot(const float *left, const float *right, int width) {
    vf sums[PARTS];
    for (int part = 0; part < PARTS; part++) sums[part] = v_of(0);
    for (int at = 0; at < width; at += PANEL)
        for (int part = 0; part < PARTS; part++)
            sums[part] = v_fma(v_load(left + at + part * LANES), v_load(right + at + part * LANES), sums[part]);
    return total(sums);
}

static void rms_norm(const float *x, int rows, int width, const float *gain, float epsilon, float *out) {
    for (int row = 0; row < rows; row++, x += width, out += width) {
        const vf inverse = v_of(1.0f / sqrtf(dot(x, x, width) / (float)width + epsilon));
        for (int at = 0; at < width; at += LANES) v_store(out + at, v_load(x + at) * inverse * v_load(gain + at));
    }
}

static void rotate(float *head, int dim, const float *turn) {
    const int half = dim / 2;
    for (int i = 0; i < half; i++) {
        const float left = head[i], right = head[half + i], cosine = turn[i], sine = turn[half + i];
        head[i] = left * cosine - right * sine;
        head[half + i] = right * cosine + left * sine;
    }
}

static void add(const float *a, const float *b, const float *c, int width, float *out) {
    for (int at = 0; at < width; at += LANES) {
        vf sum = v_load(a + at);
        if (b) sum = sum + v_load(b + at);
        v_store(out + at, sum + v_load(c + at));
    }
}

static void unpack(const int8_t *x, float scale, const float *channels, int width, float *out) {
    for (int at = 0; at < width; at += LANES) v_store(out + at, v_of_bytes(x + at) * (v_of(scale) * v_load(channels + at)));
}

static void mean(const float *x, int count, int width, float *out) {
    for (int at = 0; at < width; at += LANES) {
        vf sum = v_of(0);
        for (int token = 0; token < count; token++) sum = sum + v_load(x + (int64_t)token * width + at);
        v_store(out + at, sum / v_of((float)count));
    }
}

const Ops OPS = {
    .name = NAME,
    .quantise = quantise,
    .multiply = multiply,
    .seen_floats = seen_floats,
    .see = see,
    .hold = hold,
    .attend = attend,
    .layer_norm = layer_norm,
    .rms_norm = rms_norm,
    .rotate = rotate,
    .add = add,
    .unpack = unpack,
    .dot = dot,
    .mean = mean,
};
