/* Compare each operation of an instruction set with the scalar one, over shapes full and not; test_operations.py builds and
 * runs this, also over stand-ins for instructions and for another machine.
 *
 *   compare NAME     prints a line for each operation: its name, and the largest error as a share of its results' range
 *   compare scalar   the same of the scalar ones, against the C library's functions in double precision
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "ops.h"

static uint64_t state = 1;

static uint32_t bits(void) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (uint32_t)(state >> 16);
}

/* About normal, with some outliers. */
static float number(void) {
    float sum = 0;
    for (int i = 0; i < 4; i++) sum += (float)(bits() % 2001) / 1000.0f - 1.0f;
    return bits() % 97 ? sum : sum * 20;
}

static int between(int least, int most) { return least + (int)(bits() % (unsigned)(most - least + 1)); }

/* Memory of exactly so many bytes, so that a sanitizer sees what is read or written past it. */
static void *memory(size_t bytes) {
    void *made = NULL;
    if (posix_memalign(&made, 64, bytes ? bytes : 1)) abort();
    return made;
}

static float *numbers(int count) {
    float *made = memory(4 * (size_t)count);
    for (int i = 0; i < count; i++) made[i] = number();
    return made;
}

static float *copied(const float *from, int count) { return memcpy(memory(4 * (size_t)count), from, 4 * (size_t)count); }

static const Ops *tried;
static double worst;

static void compare(const float *right, const float *ours, int count) {
    double low = 0, high = 1e-6, error = memcmp(right, ours, 4 * (size_t)count) ? 1e-9 : 0; /* a zero's sign */
    for (int i = 0; i < count; i++) {
        low = fmin(low, right[i]), high = fmax(high, right[i]);
        const double here = fabs((double)right[i] - ours[i]);
        error = here >= 0 ? fmax(error, here) : INFINITY; /* NaN */
    }
    worst = error < INFINITY ? fmax(worst, error / (high - low)) : INFINITY;
}

static Quantised quantised(int rows, int width, int groups) {
    return (Quantised){memory((size_t)rows * width), memory(4 * (size_t)rows * groups), memory(4 * (size_t)rows * groups)};
}

static void drop(Quantised q) { free(q.values), free(q.scales), free(q.zeros); }

static void quantise(void) {
    const int rows = between(1, 7), width = 16 * between(1, 25), group = 16 * between(1, 25), groups = groups_of(width, group);
    float *x = numbers(rows * width);
    if (bits() % 8 == 0) memset(x, 0, 4 * (size_t)width);
    const int tiny = bits() % 8 == 0; /* ranges whose inverse is infinite */
    for (int i = 0; tiny && i < rows * width; i++) x[i] *= 1e-38f;
    const Quantised right = quantised(rows, width, groups), ours = quantised(rows, width, groups);
    ops_scalar.quantise(x, rows, width, group, right);
    tried->quantise(x, rows, width, group, ours);
    const int same = !memcmp(right.values, ours.values, (size_t)rows * width)
        && !memcmp(right.scales, ours.scales, 4 * (size_t)rows * groups) && !memcmp(right.zeros, ours.zeros, 4 * (size_t)rows * groups);
    worst = same ? worst : INFINITY;
    free(x), drop(right), drop(ours);
}

/* Weights that keep to the rule for 16-bit lanes: four products' weights sum to at most 128. With `plain` nothing but the
 * integer sums is left of a product.
 */
static void multiply_of(int after, int plain) {
    const int rows = between(1, 19), inputs = 16 * between(1, 20), outputs = 16 * between(1, 4), group = 16 * between(1, 20);
    const int groups = groups_of(inputs, group), from = 16 * between(0, outputs / 16 - 1), wide = outputs - from;
    const int stride = wide + between(0, 1) * 16;
    int8_t *weights = memory((size_t)inputs * outputs);
    for (int i = 0; i < inputs * outputs; i++) weights[i] = (int8_t)between(-32, 32);
    float *scales = numbers(groups * outputs), *sums = numbers(groups * outputs), *bias = numbers(outputs);
    for (int i = 0; i < groups * outputs; i++) scales[i] = plain ? 1.0f : scales[i] / 512.0f;
    for (int panel = 0; panel < outputs / PANEL; panel++) /* sums are whole numbers, and belong to the weights */
        for (int g = 0; g < groups; g++)
            for (int o = 0; o < PANEL; o++) {
                int sum = 0;
                for (int i = g * group; i < (g + 1) * group && i < inputs; i++)
                    sum += weights[(panel * inputs + i / 4 * 4) * PANEL + o * 4 + i % 4];
                sums[(panel * groups + g) * PANEL + o] = (float)sum;
            }
    if (plain) memset(bias, 0, 4 * (size_t)outputs);
    const Linear layer = {weights, scales, sums, bias, inputs, outputs, group};
    float *x = numbers(rows * inputs), *right = numbers(rows * stride), *ours = copied(right, rows * stride);
    const Quantised q = quantised(rows, inputs, groups);
    ops_scalar.quantise(x, rows, inputs, group, q);
    for (int i = 0; plain && i < rows * groups; i++) q.scales[i] = 1, q.zeros[i] = 0;
    if (bits() % 4 == 0) memset(q.values, 255, (size_t)rows * inputs); /* the most that a lane has to hold */
    ops_scalar.multiply(&layer, from, outputs, &q, rows, right, stride, after);
    tried->multiply(&layer, from, outputs, &q, rows, ours, stride, after);
    if (plain)
        worst = memcmp(right, ours, 4 * (size_t)rows * stride) ? INFINITY : worst;
    else
        compare(right, ours, rows * stride);
    free(weights), free(scales), free(sums), free(bias), free(x), free(right), free(ours), drop(q);
}

static void integers(void) { multiply_of(NOTHING, 1); }
static void multiply(void) { multiply_of(NOTHING, 0); }
static void gelu(void) { multiply_of(GELU, 0); }
static void gelu_tanh(void) { multiply_of(GELU_TANH, 0); }
static void silu(void) { multiply_of(SILU, 0); }
static void relu(void) { multiply_of(RELU, 0); }
static void times(void) { multiply_of(TIMES, 0); }
static void plus(void) { multiply_of(PLUS, 0); }

static void attend(void) {
    const int dim = 16 * between(1, 8), length = between(1, 70), stride = 3 * dim, before = between(0, length - 1);
    const int asked = between(1, length), first = between(0, length - asked), window = between(0, 30);
    const Sight sights[] = {
        {0, length, 0},                                 /* all see all */
        {-LARGEST_LENGTH, first + 1, 1},                /* a decoder's */
        {first - window, first + window + 1, 1},        /* a window on both sides */
        {first - window, first + 1, 1},                 /* and on one */
    };
    const Sight sight = sights[between(0, 3)];
    float *qkv = numbers(length * stride), *right = numbers(asked * dim), *ours = numbers(asked * dim);
    for (int i = 0; i < length * stride; i++) qkv[i] /= sqrtf(sqrtf((float)dim));
    const Ops *both[] = {&ops_scalar, tried};
    for (int i = 0; i < 2; i++) {
        float *room = memory(4 * both[i]->seen_floats(dim, length));
        const Seen seen = both[i]->see(room, dim, length);
        if (before) both[i]->hold(&seen, qkv + dim, qkv + 2 * dim, stride, before, 0);
        const float *rest = qkv + before * stride;
        both[i]->hold(&seen, rest + dim, rest + 2 * dim, stride, length - before, before);
        both[i]->attend(&seen, qkv + first * stride, stride, asked, sight, i ? ours : right, dim);
        free(room);
    }
    compare(right, ours, asked * dim);
    free(qkv), free(right), free(ours);
}

static void layer_norm(void) {
    const int rows = between(1, 5), width = 16 * between(1, 25);
    float *x = numbers(rows * width), *other = copied(x, rows * width), *y = numbers(rows * width), *gain = numbers(width);
    float *shift = numbers(width);
    const float *added = bits() % 2 ? y : NULL;
    ops_scalar.layer_norm(x, added, rows, width, gain, shift, 1e-12f);
    tried->layer_norm(other, added, rows, width, gain, shift, 1e-12f);
    compare(x, other, rows * width);
    free(x), free(other), free(y), free(gain), free(shift);
}

static void rms_norm(void) {
    const int rows = between(1, 5), width = 16 * between(1, 25);
    float *x = numbers(rows * width), *gain = numbers(width), *right = numbers(rows * width);
    ops_scalar.rms_norm(x, rows, width, gain, 1e-6f, right);
    tried->rms_norm(x, rows, width, gain, 1e-6f, x); /* in place */
    compare(right, x, rows * width);
    free(x), free(gain), free(right);
}

static void rotate(void) {
    const int dim = 16 * between(1, 8);
    float *head = numbers(dim), *other = copied(head, dim), *turn = numbers(dim);
    ops_scalar.rotate(head, dim, turn);
    tried->rotate(other, dim, turn);
    compare(head, other, dim);
    free(head), free(other), free(turn);
}

static void add(void) {
    const int width = 16 * between(1, 25);
    float *a = numbers(width), *b = numbers(width), *c = numbers(width), *right = numbers(width), *ours = numbers(width);
    const float *added = bits() % 2 ? b : NULL;
    ops_scalar.add(a, added, c, width, right);
    tried->add(a, added, c, width, ours);
    compare(right, ours, width);
    free(a), free(b), free(c), free(right), free(ours);
}

static void unpack(void) {
    const int width = 16 * between(1, 25);
    int8_t *x = memory((size_t)width);
    for (int i = 0; i < width; i++) x[i] = (int8_t)between(-127, 127);
    float *channels = numbers(width), *right = numbers(width), *ours = numbers(width);
    const float scale = number();
    ops_scalar.unpack(x, scale, channels, width, right);
    tried->unpack(x, scale, channels, width, ours);
    worst = memcmp(right, ours, 4 * (size_t)width) ? INFINITY : worst;
    free(x), free(channels), free(right), free(ours);
}

static void dot(void) {
    const int width = 16 * between(1, 25);
    float *a = numbers(width), *b = numbers(width);
    const float right = ops_scalar.dot(a, b, width), ours = tried->dot(a, b, width);
    worst = right == ours ? worst : INFINITY;
    free(a), free(b);
}

static void mean(void) {
    const int count = between(1, 9), width = 16 * between(1, 25);
    float *x = numbers(count * width), *right = numbers(width), *ours = numbers(width);
    ops_scalar.mean(x, count, width, right);
    tried->mean(x, count, width, ours);
    compare(right, ours, width);
    free(x), free(right), free(ours);
}

static const struct {
    const char *name;
    void (*once)(void);
} OPERATIONS[] = {
    {"quantise", quantise}, {"integers", integers}, {"multiply", multiply}, {"gelu", gelu}, {"gelu_tanh", gelu_tanh},
    {"silu", silu}, {"relu", relu}, {"times", times}, {"plus", plus}, {"attend", attend}, {"layer_norm", layer_norm},
    {"rms_norm", rms_norm}, {"rotate", rotate}, {"add", add}, {"unpack", unpack}, {"dot", dot}, {"mean", mean},
};

/* What a product's output becomes: weights are nothing, so it is the bias. */
static void activation(int after, double (*right)(double)) {
    const int8_t weights[16 * PANEL] = {0};
    const float nothing[PANEL] = {0};
    float bias[PANEL], out[PANEL], expected[PANEL];
    uint8_t values[16] = {0};
    float scale = 1, zero = 0;
    for (int i = 0; i < PANEL; i++) bias[i] = 2 * number(), expected[i] = (float)right(bias[i]);
    const Linear layer = {weights, nothing, nothing, bias, 16, PANEL, 16};
    const Quantised q = {values, &scale, &zero};
    ops_scalar.multiply(&layer, 0, PANEL, &q, 1, out, PANEL, after);
    for (int i = 0; i < PANEL; i++) worst = fmax(worst, fabs((double)out[i] - expected[i]) / fmax(1, fabs(expected[i])));
}

static double true_gelu(double x) { return x * 0.5 * (1 + erf(x * sqrt(0.5))); }
static double true_gelu_tanh(double x) { return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); }
static double true_silu(double x) { return x / (1 + exp(-x)); }
static double true_relu(double x) { return fmax(x, 0); }

static void check_gelu(void) { activation(GELU, true_gelu); }
static void check_gelu_tanh(void) { activation(GELU_TANH, true_gelu_tanh); }
static void check_silu(void) { activation(SILU, true_silu); }
static void check_relu(void) { activation(RELU, true_relu); }

static void check_attend(void) {
    enum { DIM = 32, LENGTH = 50, WINDOW = 7 };
    float *qkv = numbers(LENGTH * 3 * DIM), *room = numbers((int)ops_scalar.seen_floats(DIM, LENGTH)), out[LENGTH * DIM];
    float expected[LENGTH * DIM];
    for (int i = 0; i < LENGTH * 3 * DIM; i++) qkv[i] /= 3;
    const Seen seen = ops_scalar.see(room, DIM, LENGTH);
    ops_scalar.hold(&seen, qkv + DIM, qkv + 2 * DIM, 3 * DIM, LENGTH, 0);
    const int is_local = (int)(bits() % 2);
    ops_scalar.attend(&seen, qkv, 3 * DIM, LENGTH, (Sight){is_local ? -WINDOW : -LARGEST_LENGTH, is_local ? WINDOW + 1 : 1, 1}, out, DIM);
    for (int query = 0; query < LENGTH; query++) {
        double weights[LENGTH], sum = 0, mixed[DIM] = {0};
        const int from = is_local && query > WINDOW ? query - WINDOW : 0, to = is_local ? query + WINDOW : query;
        for (int token = from; token <= to && token < LENGTH; token++) {
            double product = 0;
            for (int d = 0; d < DIM; d++) product += (double)qkv[query * 3 * DIM + d] * qkv[token * 3 * DIM + DIM + d];
            sum += weights[token] = exp(product);
        }
        for (int token = from; token <= to && token < LENGTH; token++)
            for (int d = 0; d < DIM; d++) mixed[d] += weights[token] / sum * qkv[token * 3 * DIM + 2 * DIM + d];
        for (int d = 0; d < DIM; d++) expected[query * DIM + d] = (float)mixed[d];
    }
    compare(expected, out, LENGTH * DIM);
    free(qkv), free(room);
}

static void check_norms(void) {
    enum { WIDTH = 64 };
    float *x = numbers(WIDTH), *gain = numbers(WIDTH), *shift = numbers(WIDTH), out[WIDTH], layer[WIDTH], rms[WIDTH];
    double mean = 0, variance = 0, squares = 0;
    for (int i = 0; i < WIDTH; i++) mean += x[i] / (double)WIDTH, squares += (double)x[i] * x[i] / WIDTH;
    for (int i = 0; i < WIDTH; i++) variance += (x[i] - mean) * (x[i] - mean) / WIDTH;
    for (int i = 0; i < WIDTH; i++) layer[i] = (float)((x[i] - mean) / sqrt(variance + 1e-6) * gain[i] + shift[i]);
    for (int i = 0; i < WIDTH; i++) rms[i] = (float)(x[i] / sqrt(squares + 1e-6) * gain[i]);
    ops_scalar.rms_norm(x, 1, WIDTH, gain, 1e-6f, out);
    compare(rms, out, WIDTH);
    ops_scalar.layer_norm(x, NULL, 1, WIDTH, gain, shift, 1e-6f);
    compare(layer, x, WIDTH);
    free(x), free(gain), free(shift);
}

static const struct {
    const char *name;
    void (*once)(void);
} CHECKS[] = {
    {"gelu", check_gelu}, {"gelu_tanh", check_gelu_tanh}, {"silu", check_silu}, {"relu", check_relu},
    {"attend", check_attend}, {"norms", check_norms},
};

int main(int count, char **arguments) {
    if (count > 1 && !strcmp(arguments[1], ops_scalar.name)) {
        for (unsigned i = 0; i < sizeof CHECKS / sizeof *CHECKS; i++) {
            worst = 0, state = 1;
            for (int n = 0; n < 1000; n++) CHECKS[i].once();
            printf("%s %.3g\n", CHECKS[i].name, worst);
        }
        return 0;
    }
    const Ops *all[] = {&ops_avx2, &ops_avxvnni, &ops_avx512vnni, &ops_neon};
    for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
        if (count > 1 && all[i] && !strcmp(all[i]->name, arguments[1])) tried = all[i];
    if (!tried) return fprintf(stderr, "no such instruction set was compiled\n"), 2;
    for (unsigned i = 0; i < sizeof OPERATIONS / sizeof *OPERATIONS; i++) {
        worst = 0, state = 0x9e3779b97f4a7c15u;
        for (int n = 0; n < 300; n++) OPERATIONS[i].once();
        printf("%s %.3g\n", OPERATIONS[i].name, worst);
    }
    return 0;
}
