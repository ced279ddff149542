/* The only functions of this library that callers may use. They check all that they are given: what a kernel reads or
 * writes lies inside what the caller owns, whatever an artifact or a batch says. See border.h.
 */
#include "bert.h"

/* So that no product of sizes overflows an int64, nor, in attention.h, an int. */
#define LARGEST_WIDTH 65536
#define LARGEST_LENGTH (1 << 20)
#define LARGEST_LAYERS 4096
#define MULTIPLE 16 /* kernels take widths in steps of 16; see PANEL and gather() */

_Static_assert(MULTIPLE % PANEL == 0 && MULTIPLE % STEP == 0 && MULTIPLE % (2 * LANES) == 0, "a kernel takes larger steps");

static int is_width(int32_t width) { return width > 0 && width <= LARGEST_WIDTH && width % MULTIPLE == 0; }

static int is_computable(const BertShape *s) {
    return s->vocabulary > 0 && s->positions > 0 && s->positions <= LARGEST_LENGTH && s->types > 0
        && is_width(s->hidden) && is_width(s->wide) && s->layers > 0 && s->layers <= LARGEST_LAYERS
        && s->heads > 0 && s->hidden % s->heads == 0 && is_width(s->hidden / s->heads)
        && (int64_t)(s->hidden / s->heads + QUERIES) * (s->positions + BLOCK) <= INT32_MAX
        && (s->classifies == 0 || s->classifies == 1) && isfinite(s->epsilon) && s->epsilon >= 0;
}

typedef struct {
    const BertTensor *next, *end;
    int wrong;
} Tensors;

/* The next tensor, which must hold rows x columns elements of `size` bytes. */
static const void *take(Tensors *tensors, int64_t rows, int64_t columns, int size) {
    if (tensors->next == tensors->end) {
        tensors->wrong = 1;
        return NULL;
    }
    const BertTensor tensor = *tensors->next++;
    tensors->wrong |= !tensor.at || tensor.bytes != rows * columns * size || (uintptr_t)tensor.at % size;
    return tensor.at;
}

static const float *floats(Tensors *tensors, int64_t rows, int64_t columns) {
    return take(tensors, rows, columns, sizeof(float));
}

static Linear matrix(Tensors *tensors, int32_t inputs, int32_t outputs) {
    Linear linear = {.inputs = inputs, .outputs = outputs};
    linear.weights = take(tensors, outputs, inputs, sizeof(int8_t));
    linear.scales = floats(tensors, 1, outputs);
    linear.sums = floats(tensors, 1, outputs);
    linear.bias = floats(tensors, 1, outputs);
    return linear;
}

static void take_layer(Tensors *tensors, const BertShape *shape, Layer *layer) {
    const int32_t hidden = shape->hidden;
    layer->qkv = matrix(tensors, hidden, 3 * hidden);
    layer->mix = matrix(tensors, hidden, hidden);
    layer->up = matrix(tensors, hidden, shape->wide);
    layer->down = matrix(tensors, shape->wide, hidden);
    layer->mix_gain = floats(tensors, 1, hidden);
    layer->mix_shift = floats(tensors, 1, hidden);
    layer->down_gain = floats(tensors, 1, hidden);
    layer->down_shift = floats(tensors, 1, hidden);
}

static void take_all(Tensors *tensors, BertModel *model) {
    const BertShape *shape = &model->shape;
    const int32_t hidden = shape->hidden;
    model->words = floats(tensors, shape->vocabulary, hidden);
    model->positions = floats(tensors, shape->positions, hidden);
    model->types = floats(tensors, shape->types, hidden);
    model->gain = floats(tensors, 1, hidden);
    model->shift = floats(tensors, 1, hidden);
    for (int i = 0; i < shape->layers; i++) take_layer(tensors, shape, &model->layers[i]);
    if (shape->classifies) {
        model->dense = floats(tensors, hidden, hidden);
        model->dense_bias = floats(tensors, 1, hidden);
        model->out = floats(tensors, 1, hidden);
        model->out_bias = floats(tensors, 1, 1);
    }
}

int bert_load(const BertShape *shape, const BertTensor *tensors, int64_t count, BertModel **model) {
    *model = NULL;
    if (shape->border != BERT_BORDER) return BERT_OTHER_BORDER;
    if (!is_computable(shape)) return BERT_BAD_SHAPE;
    if (!tensors || count < 0) return BERT_BAD_TENSOR;
    BertModel *made = calloc(1, sizeof *made + shape->layers * sizeof(Layer));
    if (!made) return BERT_NO_MEMORY;
    made->shape = *shape;
    Tensors given = {tensors, tensors + count, 0};
    take_all(&given, made);
    if (given.wrong || given.next != given.end) {
        free(made);
        return BERT_BAD_TENSOR;
    }
    *model = made;
    return BERT_OK;
}

void bert_unload(BertModel *model) { free(model); }

struct BertScratch {
    const BertModel *model;
    Scratch own;
};

int bert_open(const BertModel *model, BertScratch **scratch) {
    *scratch = calloc(1, sizeof **scratch);
    if (!*scratch) return BERT_NO_MEMORY;
    (*scratch)->model = model;
    return BERT_OK;
}

void bert_close(BertScratch *scratch) {
    empty(&scratch->own);
    free(scratch);
}

/* Whether any of these lies outside 0..limit-1. */
static int any_outside(const int64_t *values, int count, int32_t limit) {
    int outside = 0;
    for (int at = 0; at < count; at++) outside |= (uint64_t)values[at] >= (uint64_t)limit;
    return outside;
}

/* Tokens that a row may have. */
static int32_t longest(const BertShape *shape, const BertBatch *batch) {
    return batch->length < shape->positions ? batch->length : shape->positions;
}

static BertStatus batch_status(const BertShape *shape, const BertBatch *b) {
    const int64_t tokens = (int64_t)b->rows * b->length, width = shape->classifies ? 1 : shape->hidden;
    if (b->rows < 1 || b->length < 1 || !b->ids || !b->types || !b->lengths || !b->out || b->id_count != tokens
        || b->type_count != tokens || b->length_count != b->rows || b->out_count != b->rows * width)
        return BERT_BAD_BATCH;
    const int32_t most = longest(shape, b);
    for (int row = 0; row < b->rows; row++)
        if (b->lengths[row] < 1 || b->lengths[row] > most) return BERT_BAD_LENGTH;
    for (int row = 0; row < b->rows; row++) {
        const int64_t at = (int64_t)row * b->length;
        if (any_outside(b->ids + at, b->lengths[row], shape->vocabulary)) return BERT_BAD_ID;
        if (any_outside(b->types + at, b->lengths[row], shape->types)) return BERT_BAD_TYPE;
    }
    return BERT_OK;
}

int bert_forward(BertScratch *scratch, const BertBatch *batch) {
    const BertModel *model = scratch->model;
    const BertStatus status = batch_status(&model->shape, batch);
    if (status != BERT_OK) return status;
    if (!make_room(&model->shape, longest(&model->shape, batch), &scratch->own)) return BERT_NO_MEMORY;
    compute(model, &scratch->own, batch);
    return BERT_OK;
}
