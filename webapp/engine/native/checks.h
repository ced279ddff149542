/* What the borders of BERT's and of decoders' graphs check alike: sizes, tensors, ids. */
#pragma once
#include "border.h"
#include "dispatch.h"

/* So that no product of sizes overflows an int64, nor, in attention, an int. */
#define LARGEST_WIDTH 65536
#define LARGEST_LENGTH (1 << 20)
#define LARGEST_LAYERS 4096
#define MULTIPLE 16 /* widths are multiples of this: of PANEL, of STEP, and of the floats that any register holds */

/* No table of operations computes more queries, or rounds a length up to more keys; see kernels.h. */
#define MOST_QUERIES 8
#define MOST_KEYS 32

_Static_assert(MULTIPLE % PANEL == 0 && MULTIPLE % STEP == 0, "a kernel takes larger steps");

static int is_width(int32_t width) { return width > 0 && width <= LARGEST_WIDTH && width % MULTIPLE == 0; }

typedef struct {
    const Tensor *next, *end;
    int wrong;
} Tensors;

/* The next tensor, which must hold rows x columns elements of `size` bytes. */
static const void *take(Tensors *tensors, int64_t rows, int64_t columns, int size) {
    if (tensors->next == tensors->end) {
        tensors->wrong = 1;
        return NULL;
    }
    const Tensor tensor = *tensors->next++;
    tensors->wrong |= !tensor.at || tensor.bytes != rows * columns * size || (uintptr_t)tensor.at % size;
    return tensor.at;
}

static const float *floats(Tensors *tensors, int64_t rows, int64_t columns) {
    return take(tensors, rows, columns, sizeof(float));
}

static Linear matrix(Tensors *tensors, int32_t inputs, int32_t outputs, int32_t group) {
    Linear linear = {.inputs = inputs, .outputs = outputs, .group = group};
    linear.weights = take(tensors, outputs, inputs, sizeof(int8_t));
    linear.scales = floats(tensors, groups_of(inputs, group), outputs);
    linear.sums = floats(tensors, groups_of(inputs, group), outputs);
    linear.bias = floats(tensors, 1, outputs);
    return linear;
}

/* Whether any of these lies outside 0..limit-1. */
static int any_outside(const int64_t *values, int count, int32_t limit) {
    int outside = 0;
    for (int at = 0; at < count; at++) outside |= (uint64_t)values[at] >= (uint64_t)limit;
    return outside;
}
