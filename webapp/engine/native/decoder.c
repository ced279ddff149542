/* The decoders' border; see border.c, which is BERT's. */
#include "decoder.h"
#include "checks.h"

static int is_flag(int32_t flag) { return flag == 0 || flag == 1; }

static int is_computable(const DecoderShape *s) {
    return s->vocabulary > 0 && s->positions > 0 && s->positions <= LARGEST_LENGTH && is_width(s->hidden)
        && is_width(s->wide) && is_width(s->dim) && is_width(s->group) && s->layers > 0 && s->layers <= LARGEST_LAYERS
        && s->heads > 0 && s->kv_heads > 0 && s->heads <= LARGEST_WIDTH / s->dim && s->heads % s->kv_heads == 0
        && (int64_t)(s->dim + MOST_QUERIES) * (s->positions + MOST_KEYS) <= INT32_MAX && is_flag(s->normalises_heads)
        && is_flag(s->gelu) && is_flag(s->causal) && is_flag(s->mean) && isfinite(s->epsilon) && s->epsilon >= 0;
}

static void take_layer(Tensors *tensors, const DecoderShape *shape, Layer *layer) {
    const int32_t hidden = shape->hidden, wide = shape->wide, group = shape->group;
    layer->qkv = matrix(tensors, hidden, width_of_qkv(shape), group);
    layer->mix = matrix(tensors, width_of_queries(shape), hidden, group);
    layer->gate = matrix(tensors, hidden, wide, group);
    layer->up = matrix(tensors, hidden, wide, group);
    layer->down = matrix(tensors, wide, hidden, group);
    layer->mix_gain = floats(tensors, 1, hidden);
    layer->wide_gain = floats(tensors, 1, hidden);
    if (shape->normalises_heads) {
        layer->query_gain = floats(tensors, 1, shape->dim);
        layer->key_gain = floats(tensors, 1, shape->dim);
    }
}

int decoder_load(const DecoderShape *shape, const Tensor *tensors, int64_t count, const char *instructions, DecoderModel **model) {
    *model = NULL;
    if (shape->border != BORDER) return STATUS_OTHER_BORDER;
    if (!is_computable(shape)) return STATUS_BAD_SHAPE;
    if (!tensors || count < 0) return STATUS_BAD_TENSOR;
    const Ops *ops = ops_named(instructions);
    if (!ops) return STATUS_BAD_INSTRUCTIONS;
    DecoderModel *made = calloc(1, sizeof *made + shape->layers * sizeof(Layer));
    if (!made) return STATUS_NO_MEMORY;
    made->shape = *shape, made->ops = ops;
    Tensors given = {tensors, tensors + count, 0};
    made->words = take(&given, shape->vocabulary, shape->hidden, sizeof(uint16_t));
    made->frequencies = floats(&given, 1, shape->dim / 2);
    made->gain = floats(&given, 1, shape->hidden);
    made->head = floats(&given, 1, shape->hidden);
    for (int i = 0; i < shape->layers; i++) take_layer(&given, shape, &made->layers[i]);
    if (given.wrong || given.next != given.end) {
        free(made);
        return STATUS_BAD_TENSOR;
    }
    *model = made;
    return STATUS_OK;
}

void decoder_unload(DecoderModel *model) { free(model); }

struct DecoderScratch {
    const DecoderModel *model;
    Scratch own;
    Prefixes prefixes;
};

int decoder_open(const DecoderModel *model, int64_t prefix_bytes, DecoderScratch **scratch) {
    *scratch = calloc(1, sizeof **scratch);
    if (!*scratch) return STATUS_NO_MEMORY;
    (*scratch)->model = model;
    (*scratch)->prefixes.most_bytes = prefix_bytes;
    return STATUS_OK;
}

void decoder_close(DecoderScratch *scratch) {
    empty(&scratch->own);
    for (int i = 0; i < MOST_PREFIXES; i++) forget(&scratch->prefixes, &scratch->prefixes.slots[i]);
    free(scratch);
}

int64_t decoder_kept(const DecoderScratch *scratch) { return scratch->prefixes.bytes; }

/* Tokens that a row may have. */
static int32_t longest(const DecoderShape *shape, const DecoderBatch *batch) {
    return batch->length < shape->positions ? batch->length : shape->positions;
}

static Status batch_status(const DecoderShape *shape, const DecoderBatch *b) {
    if (b->rows < 1 || b->length < 1 || !b->ids || !b->lengths || !b->prefixes || !b->out
        || b->id_count != (int64_t)b->rows * b->length || b->length_count != b->rows || b->prefix_count != b->rows
        || b->out_count != b->rows)
        return STATUS_BAD_BATCH;
    const int32_t most = longest(shape, b);
    for (int row = 0; row < b->rows; row++) {
        const int32_t length = b->lengths[row], prefix = b->prefixes[row];
        if (length < 1 || length > most || prefix < 0 || prefix >= length) return STATUS_BAD_LENGTH;
        if (any_outside(b->ids + (int64_t)row * b->length, length, shape->vocabulary)) return STATUS_BAD_ID;
    }
    return STATUS_OK;
}

int decoder_forward(DecoderScratch *scratch, const DecoderBatch *batch) {
    const DecoderModel *model = scratch->model;
    const Status status = batch_status(&model->shape, batch);
    if (status != STATUS_OK) return status;
    if (!make_room(model, longest(&model->shape, batch), &scratch->own)) return STATUS_NO_MEMORY;
    compute(model, &scratch->own, &scratch->prefixes, batch);
    return STATUS_OK;
}
