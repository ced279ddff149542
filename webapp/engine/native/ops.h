/* The table of operations that transformer.h is made of. Each instruction set has one: a file ops_*.c.
 *
 * Of finite numbers all of them make the same results, to the bit. ops_scalar.c is the one to read, and what tests compare the others with.
 * Widths are multiples of 16.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include "border.h" /* Activation */

#define PANEL 16 /* outputs of a matrix that lie together */
#define STEP 8   /* inputs that a kernel reads at once */

#define LARGEST_LENGTH (1 << 20) /* tokens of a sequence */

#define LEAST_RANGE 1e-30f /* of numbers that are quantised; what is smaller counts as nothing, for its inverse is infinite */

/* y = W x + b with W in int8 and x quantised row by row, both in groups of inputs that have a scale each.
 *
 * Some channels are a hundred times as large as the others: a scale for each group keeps their harm to the group that they are in.
 */
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
    float *zeros;    /* [rows][groups], whole numbers: x = scale * (value - zero) */
} Quantised;

/* What is done with a product: one of Activation, but for TANH, or one of these. */
enum {
    NOTHING = IDENTITY,
    TIMES = ACTIVATIONS, /* out is multiplied by it */
    PLUS,                /* it is added to out */
};

/* A head's keys and values of one sequence. How they lie is the instruction set's own affair. */
typedef struct {
    float *keys, *values, *weights; /* `seen_floats` of memory, aligned to 64 bytes, is divided between them */
    int dim, length;
} Seen;

/* What queries see: query i sees tokens [from + i * more, to + i * more), as far as there are any. `more` is 0 where all see
 * the same, and 1 where a window moves. What begins below -LARGEST_LENGTH begins at the first token for every query.
 */
typedef struct {
    int from, to, more;
} Sight;

typedef struct {
    const char *name;

    /* x: [rows][width], to 0..255 over the range of each row's groups; zero is exactly held. */
    void (*quantise)(const float *x, int rows, int width, int group, Quantised out);

    /* Outputs [from, to) of a layer, multiples of PANEL, for all rows: out[row][to - from], rows `stride` floats apart. */
    void (*multiply)(const Linear *layer, int from, int to, const Quantised *x, int rows, float *out, int stride, int after);

    /* Floats that `see` needs for a sequence of this length. */
    size_t (*seen_floats)(int dim, int length);

    /* Divide memory for a sequence; then `hold` puts `count` tokens' keys and values at `at`, until all are there. */
    Seen (*see)(float *memory, int dim, int length);
    void (*hold)(const Seen *seen, const float *keys, const float *values, int stride, int count, int at);

    /* softmax(Q K^T) V. queries: [asked][stride], scaled already, each of which sees a token at least. What a query's result
     * is made of, and in which order, depends on the tokens that it sees and their places, and on nothing else.
     * out: [asked][out_stride].
     */
    void (*attend)(const Seen *seen, const float *queries, int stride, int asked, Sight sight, float *out, int out_stride);

    /* x = normalised(x + y) * gain + shift, row by row; y may be NULL. */
    void (*layer_norm)(float *x, const float *y, int rows, int width, const float *gain, const float *shift, float epsilon);

    /* out = x / rms(x) * gain, row by row; they may be the same. */
    void (*rms_norm)(const float *x, int rows, int width, const float *gain, float epsilon, float *out);

    /* Rotate pairs (i, i + dim / 2) of a head. turn: cosines, then sines, dim / 2 each. */
    void (*rotate)(float *head, int dim, const float *turn);

    /* out = a + b + c; b may be NULL, out may be a. */
    void (*add)(const float *a, const float *b, const float *c, int width, float *out);

    /* out = x * (scale * channels). */
    void (*unpack)(const int8_t *x, float scale, const float *channels, int width, float *out);

    float (*dot)(const float *left, const float *right, int width);

    /* The mean of `count` rows. */
    void (*mean)(const float *x, int count, int width, float *out);
} Ops;

/* Weak, since a compiler that does not know an instruction set leaves its file out. */
extern const Ops ops_scalar;
extern const Ops ops_avx2 __attribute__((weak)), ops_avxvnni __attribute__((weak)), ops_avx512vnni __attribute__((weak));
extern const Ops ops_neon __attribute__((weak));

static inline int groups_of(int inputs, int group) { return (inputs + group - 1) / group; }
