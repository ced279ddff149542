/* The only functions of this library that callers may use. They check all that they are given: what a kernel reads or
 * writes lies inside what the caller owns, whatever an artifact or a batch says. See border.h.
 */
#include "bert.h"
#include "checks.h"

static int is_computable(const BertShape *s) {
    return s->vocabulary > 0 && s->positions > 0 && s->positions <= LARGEST_LENGTH && s->types > 0
        && is_width(s->hidden) && is_width(s->wide) && s->layers > 0 && s->layers <= LARGEST_LAYERS
        && s->heads > 0 && s->hidden % s->heads == 0 && is_width(s->hidden / s->heads)
        && (int64_t)(s->hidden / s->heads + MOST_QUERIES) * (s->positions + MOST_KEYS) <= INT32_MAX
        && (s->classifies == 0 || s->classifies == 1) && s->pad >= -1 && s->pad < s->vocabulary && isfinite(s->epsilon) && s->epsilon >= 0;
}

static void take_layer(Tensors *tensors, const BertShape *shape, Layer *layer) {
    const int32_t hidden = shape->hidden;
    layer->qkv = matrix(tensors, hidden, 3 * hidden, hidden);
    layer->mix = matrix(tensors, hidden, hidden, hidden);
    layer->up = matrix(tensors, hidden, shape->wide, hidden);
    layer->down = matrix(tensors, shape->wide, hidden, shape->wide);
    layer->mix_gain = floats(tensors, 1, hidden);
    layer->mix_shift = floats(tensors, 1, hidden);
    layer->down_gain = floats(tensors, 1, hidden);
    layer->down_shift = floats(tensors, 1, hidden);
}

static void take_all(Tensors *tensors, BertModel *model) {
    const BertShape *shape = &model->shape;
    const int32_t hidden = shape->hidden;
    model->words = floats(tensors, shape->vocabulary, hidden);
    model->positions = floats(tensors, shape->positions + (shape->pad >= 0), hidden);
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

int bert_load(const BertShape *shape, const Tensor *tensors, int64_t count, const char *instructions, BertModel **model) {
    *model = NULL;
    if (shape->border != BORDER) return STATUS_OTHER_BORDER;
    if (!is_computable(shape)) return STATUS_BAD_SHAPE;
    if (!tensors || count < 0) return STATUS_BAD_TENSOR;
    const Ops *ops = ops_named(instructions);
    if (!ops) return STATUS_BAD_INSTRUCTIONS;
    BertModel *made = calloc(1, sizeof *made + shape->layers * sizeof(Layer));
    if (!made) return STATUS_NO_MEMORY;
    made->shape = *shape, made->ops = ops;
    Tensors given = {tensors, tensors + count, 0};
    take_all(&given, made);
    if (given.wrong || given.next != given.end) {
        free(made);
        return STATUS_BAD_TENSOR;
    }
    *model = made;
    return STATUS_OK;
}

void bert_unload(BertModel *model) { free(model); }

struct BertScratch {
    const BertModel *model;
    Scratch own;
};

int bert_open(const BertModel *model, BertScratch **scratch) {
    *scratch = calloc(1, sizeof **scratch);
    if (!*scratch) return STATUS_NO_MEMORY;
    (*scratch)->model = model;
    return STATUS_OK;
}

void bert_close(BertScratch *scratch) {
    empty(&scratch->own);
    free(scratch);
}

/* Tokens that a row may have. */
static int32_t longest(const BertShape *shape, const BertBatch *batch) {
    return batch->length < shape->positions ? batch->length : shape->positions;
}

static Status batch_status(const BertShape *shape, const BertBatch *b) {
    const int64_t tokens = (int64_t)b->rows * b->length, width = shape->classifies ? 1 : shape->hidden;
    if (b->rows < 1 || b->length < 1 || !b->ids || !b->types || !b->lengths || !b->out || b->id_count != tokens
        || b->type_count != tokens || b->length_count != b->rows || b->out_count != b->rows * width)
        return STATUS_BAD_BATCH;
    const int32_t most = longest(shape, b);
    for (int row = 0; row < b->rows; row++)
        if (b->lengths[row] < 1 || b->lengths[row] > most) return STATUS_BAD_LENGTH;
    for (int row = 0; row < b->rows; row++) {
        const int64_t at = (int64_t)row * b->length;
        if (any_outside(b->ids + at, b->lengths[row], shape->vocabulary)) return STATUS_BAD_ID;
        if (any_outside(b->types + at, b->lengths[row], shape->types)) return STATUS_BAD_TYPE;
    }
    return STATUS_OK;
}

int bert_forward(BertScratch *scratch, const BertBatch *batch) {
    const BertModel *model = scratch->model;
    const Status status = batch_status(&model->shape, batch);
    if (status != STATUS_OK) return status;
    if (!make_room(model, longest(&model->shape, batch), &scratch->own)) return STATUS_NO_MEMORY;
    compute(model, &scratch->own, batch);
    return STATUS_OK;
}
