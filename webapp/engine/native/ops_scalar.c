/* Every operation in plain C, one number after the other: what tests compare the others with, and what serves where no
 * other can.
 */
#include <math.h>
#include <string.h>
#include "ops.h"

static void quantise(const float *x, int rows, int width, int group, Quantised out) {
    for (int row = 0; row < rows; row++)
        for (int from = 0; from < width; from += group) {
            const int count = width - from < group ? width - from : group;
            float least = 0, most = 0;
            for (int i = 0; i < count; i++) {
                least = fminf(least, x[i]);
                most = fmaxf(most, x[i]);
            }
            const float scale = most - least > LEAST_RANGE ? (most - least) / 255.0f : 1.0f;
            const float zero = rintf(-least / scale) + 0.0f; /* not -0 */
            *out.scales++ = scale;
            *out.zeros++ = zero;
            const float inverse = 1.0f / scale;
            for (int i = 0; i < count; i++) out.values[i] = (uint8_t)fminf(fmaxf(rintf(fmaf(x[i], inverse, zero)), 0), 255);
            x += count, out.values += count;
        }
}

/* The sum of sixteen sums, halved until one is left: the order in which registers of any width can add. */
static float total(float sums[PANEL]) {
    for (int half = PANEL / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) sums[i] += sums[half + i];
    return sums[0];
}

/* The functions of kernels.h, where their errors stand. */
#define LOG2_E 1.44269504f

static float exp2_of(float y) {
    static const float FACTORS[] = {9.675540368e-3f, 5.550713310e-2f, 2.402211974e-1f, 6.931469671e-1f, 1};
    y = fmaxf(y, -125);
    const float n = rintf(y);
    float p = 1.327645461e-3f;
    for (int i = 0; i < 5; i++) p = fmaf(p, y - n, FACTORS[i]);
    return ldexpf(p, (int)n);
}

static float gelu(float x) {
    static const float FACTORS[] = {4.139322846e-5f, 5.969842096e-5f, 3.249328583e-3f, 2.115730010e-2f, 4.986413568e-2f, 1};
    const float z = fabsf(x);
    float p = 6.331517852e-6f;
    for (int i = 0; i < 6; i++) p = fmaf(p, z, FACTORS[i]);
    float t = 1 / p;
    for (int i = 0; i < 4; i++) t *= t;
    return fmaf(-(z * 0.5f), t, fmaxf(x, 0));
}

static float sigmoid(float x) {
    const float e = exp2_of(fabsf(x) * -LOG2_E);
    return (signbit(x) ? e : 1) / (1 + e);
}

static float gelu_tanh(float x) { return x * sigmoid(x * fmaf(x * x, 2 * 0.79788456f * 0.044715f, 2 * 0.79788456f)); }

static float finished(int after, float y, float before) {
    switch (after) {
        case GELU: return gelu(y);
        case GELU_TANH: return gelu_tanh(y);
        case SILU: return y * sigmoid(y);
        case RELU: return fmaxf(y, 0);
        case TIMES: return before * y;
        case PLUS: return before + y;
        default: return y;
    }
}

/* A panel's outputs of one row. */
static void products(const Linear *layer, int first, const uint8_t *values, const float *scales, const float *zeros, float *y) {
    const int groups = groups_of(layer->inputs, layer->group);
    const int8_t *weights = layer->weights + (int64_t)first * layer->inputs;
    memcpy(y, layer->bias + first, PANEL * sizeof *y);
    for (int group = 0, i = 0; group < groups; group++) {
        const int end = layer->inputs - i < layer->group ? layer->inputs : i + layer->group;
        int32_t sums[PANEL] = {0};
        for (; i < end; i += 4, weights += 4 * PANEL)
            for (int output = 0; output < PANEL; output++)
                for (int k = 0; k < 4; k++) sums[output] += values[i + k] * weights[output * 4 + k];
        const int64_t at = (int64_t)first * groups + group * PANEL;
        for (int output = 0; output < PANEL; output++) {
            const float product = fmaf(-zeros[group], layer->sums[at + output], (float)sums[output]);
            y[output] = fmaf(product, layer->scales[at + output] * scales[group], y[output]);
        }
    }
}

static void
multiply(const Linear *layer, int from, int to, const Quantised *x, int rows, float *out, int stride, int after) {
    const int groups = groups_of(layer->inputs, layer->group);
    for (int64_t row = 0; row < rows; row++)
        for (int first = from; first < to; first += PANEL) {
            float y[PANEL], *here = out + row * stride + first - from;
            products(layer, first, x->values + row * layer->inputs, x->scales + row * groups, x->zeros + row * groups, y);
            for (int output = 0; output < PANEL; output++) here[output] = finished(after, y[output], here[output]);
        }
}

/* Keys and values as they come, [length][dim]; weights of one query. */
static size_t seen_floats(int dim, int length) { return (size_t)length * (2 * dim + 1); }

static Seen see(float *memory, int dim, int length) {
    return (Seen){memory, memory + (int64_t)length * dim, memory + (int64_t)2 * length * dim, dim, length};
}

static void hold(const Seen *seen, const float *keys, const float *values, int stride, int count, int at) {
    for (int64_t token = 0; token < count; token++) {
        memcpy(seen->keys + (at + token) * seen->dim, keys + token * stride, seen->dim * sizeof(float));
        memcpy(seen->values + (at + token) * seen->dim, values + token * stride, seen->dim * sizeof(float));
    }
}

static float dot(const float *left, const float *right, int width) {
    float sums[PANEL] = {0};
    for (int i = 0; i < width; i++) sums[i % PANEL] = fmaf(left[i], right[i], sums[i % PANEL]);
    return total(sums);
}

static void attend(const Seen *seen, const float *queries, int stride, int asked, Sight sight, float *out, int out_stride) {
    float *weights = seen->weights;
    for (int query = 0; query < asked; query++, queries += stride, sight.from += sight.more, sight.to += sight.more) {
        const int from = sight.from < 0 ? 0 : sight.from, to = sight.to < seen->length ? sight.to : seen->length;
        float top = -INFINITY, sums[PANEL] = {0};
        for (int token = from; token < to; token++) {
            weights[token] = 0;
            for (int d = 0; d < seen->dim; d++)
                weights[token] = fmaf(queries[d], seen->keys[(int64_t)token * seen->dim + d], weights[token]);
            top = fmaxf(top, weights[token]);
        }
        for (int token = from; token < to; token++) sums[token % PANEL] += weights[token] = exp2_of((weights[token] - top) * LOG2_E);
        const float inverse = 1 / total(sums);
        for (int d = 0; d < seen->dim; d++) {
            float mixed = 0;
            for (int token = from; token < to; token++)
                mixed = fmaf(weights[token], seen->values[(int64_t)token * seen->dim + d], mixed);
            out[(int64_t)query * out_stride + d] = mixed * inverse;
        }
    }
}

static void layer_norm(float *x, const float *y, int rows, int width, const float *gain, const float *shift, float epsilon) {
    for (int row = 0; row < rows; row++, x += width) {
        float sums[PANEL] = {0}, squares[PANEL] = {0};
        for (int i = 0; i < width; i++) sums[i % PANEL] += x[i] += y ? y[(int64_t)row * width + i] : 0;
        const float mean = total(sums) / (float)width;
        for (int i = 0; i < width; i++) squares[i % PANEL] = fmaf(x[i] - mean, x[i] - mean, squares[i % PANEL]);
        const float inverse = 1 / sqrtf(total(squares) / (float)width + epsilon);
        for (int i = 0; i < width; i++) x[i] = fmaf((x[i] - mean) * inverse, gain[i], shift[i]);
    }
}

static void rms_norm(const float *x, int rows, int width, const float *gain, float epsilon, float *out) {
    for (int row = 0; row < rows; row++, x += width, out += width) {
        const float inverse = 1 / sqrtf(dot(x, x, width) / (float)width + epsilon);
        for (int i = 0; i < width; i++) out[i] = x[i] * inverse * gain[i];
    }
}

static void rotate(float *head, int dim, const float *turn) {
    for (int i = 0; i < dim / 2; i++) {
        const float left = head[i], right = head[dim / 2 + i], cosine = turn[i], sine = turn[dim / 2 + i];
        head[i] = left * cosine - right * sine;
        head[dim / 2 + i] = right * cosine + left * sine;
    }
}

static void add(const float *a, const float *b, const float *c, int width, float *out) {
    for (int i = 0; i < width; i++) out[i] = (b ? a[i] + b[i] : a[i]) + c[i];
}

static void unpack(const int8_t *x, float scale, const float *channels, int width, float *out) {
    for (int i = 0; i < width; i++) out[i] = (float)x[i] * (scale * channels[i]);
}

static void mean(const float *x, int count, int width, float *out) {
    for (int i = 0; i < width; i++) {
        float sum = 0;
        for (int64_t row = 0; row < count; row++) sum += x[row * width + i];
        out[i] = sum / (float)count;
    }
}

const Ops ops_scalar = {
    .name = "scalar",
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
