/* The only functions of this library that callers may use. They check all that they are given: what a kernel reads or
 * writes lies inside what the caller owns, whatever an artifact or a batch says. See border.h.
 */
#include "transformer.h"

/* So that no product of sizes overflows an int64, nor, in attention, an int. */
#define LARGEST_WIDTH 65536
#define LARGEST_LAYERS 4096
#define MULTIPLE 16 /* widths are multiples of this: of PANEL, of STEP, and of the floats that any register holds */

/* No table of operations computes more queries, or rounds a length up to more keys; see kernels.h. */
#define MOST_QUERIES 8
#define MOST_KEYS 32

_Static_assert(MULTIPLE % PANEL == 0 && MULTIPLE % STEP == 0, "a kernel takes larger steps");

static int is_width(int32_t width) { return width > 0 && width <= LARGEST_WIDTH && width % MULTIPLE == 0; }
static int is_flag(int32_t flag) { return flag == 0 || flag == 1; }
static int is_below(int32_t number, int32_t limit) { return number >= 0 && number < limit; }

static int has_embeddings(const Shape *s) {
    return s->vocabulary > 0 && s->positions > 0 && s->types >= 0 && is_below(s->rotaries, 3)
        && is_width(s->embedded) && s->embedded <= s->hidden && s->embedded <= width_of_qkv(s)
        && s->pad >= -1 && s->pad < s->vocabulary && (s->rotaries == 0 || (s->pad == -1 && s->types == 0));
}

static int has_attention(const Shape *s) {
    return is_width(s->dim) && s->heads > 0 && s->kv_heads > 0 && s->heads <= LARGEST_WIDTH / s->dim && s->heads % s->kv_heads == 0
        && s->positions <= LARGEST_LENGTH && (int64_t)(s->dim + MOST_QUERIES) * (s->positions + MOST_KEYS) <= INT32_MAX
        && is_below(s->window, LARGEST_LENGTH)
        && (s->window > 0) == (s->rotaries == 2) && s->global_every > 0;
}

static int has_head(const Shape *s) {
    return is_below(s->pool, POOLS) && is_below(s->head_activation, ACTIVATIONS)
        && (s->scores || s->head_dense == 0) && (s->head_dense || (s->head_norm == 0 && s->head_activation == IDENTITY));
}

static int is_computable(const Shape *s) {
    const int32_t flags[] = {s->causal, s->norms_first, s->rms, s->normalises_words, s->normalises_heads, s->gated,
                             s->scores, s->head_dense, s->head_norm};
    for (unsigned i = 0; i < sizeof flags / sizeof *flags; i++)
        if (!is_flag(flags[i])) return 0;
    return has_attention(s) && has_embeddings(s) && has_head(s) && is_width(s->hidden) && is_width(s->wide) && is_width(s->group)
        && s->layers > 0 && s->layers <= LARGEST_LAYERS && is_below(s->activation, TANH) && (s->norms_first || !s->rms)
        && isfinite(s->epsilon) && s->epsilon >= 0;
}

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

static Norm norm(Tensors *tensors, int32_t width, int has_shift) {
    Norm taken = {.gain = floats(tensors, 1, width)};
    if (has_shift) taken.shift = floats(tensors, 1, width);
    return taken;
}

static void take_layer(Tensors *tensors, const Shape *shape, int number, Layer *layer) {
    const int32_t hidden = shape->hidden, wide = shape->wide, group = shape->group;
    layer->qkv = matrix(tensors, hidden, width_of_qkv(shape), group);
    layer->mix = matrix(tensors, width_of_queries(shape), hidden, group);
    if (shape->gated) layer->gate = matrix(tensors, hidden, wide, group);
    layer->up = matrix(tensors, hidden, wide, group);
    layer->down = matrix(tensors, wide, hidden, group);
    if (number > 0 || !shape->norms_first || !shape->normalises_words) layer->mix_norm = norm(tensors, hidden, !shape->rms);
    layer->wide_norm = norm(tensors, hidden, !shape->rms);
    if (shape->normalises_heads) {
        layer->query_gain = floats(tensors, 1, shape->dim);
        layer->key_gain = floats(tensors, 1, shape->dim);
    }
    const int is_local = shape->window && number % shape->global_every;
    layer->window = is_local ? shape->window : 0;
    layer->rotary = is_local;
}

static void take_all(Tensors *tensors, Model *model) {
    const Shape *shape = &model->shape;
    const int32_t hidden = shape->hidden, embedded = shape->embedded;
    model->words = take(tensors, shape->vocabulary, embedded, sizeof(int8_t));
    model->word_scales = floats(tensors, 1, shape->vocabulary);
    model->channels = floats(tensors, 1, embedded);
    if (shape->rotaries)
        model->frequencies = floats(tensors, shape->rotaries, shape->dim / 2);
    else
        model->positions = floats(tensors, shape->positions + (shape->pad >= 0), embedded);
    if (shape->types) model->types = floats(tensors, shape->types, embedded);
    if (shape->normalises_words) model->word_norm = norm(tensors, embedded, !shape->rms);
    if (embedded < hidden) model->widened = matrix(tensors, embedded, hidden, shape->group);
    for (int i = 0; i < shape->layers; i++) take_layer(tensors, shape, i, &model->layers[i]);
    if (shape->norms_first) model->last_norm = norm(tensors, hidden, !shape->rms);
    if (!shape->scores) return;
    if (shape->head_dense) {
        model->head.dense = floats(tensors, hidden, hidden);
        model->head.dense_bias = floats(tensors, 1, hidden);
    }
    if (shape->head_norm) model->head.norm = norm(tensors, hidden, 1);
    model->head.out = floats(tensors, 1, hidden);
    model->head.out_bias = floats(tensors, 1, 1);
}

int model_load(const Shape *shape, const Tensor *tensors, int64_t count, const char *instructions, Model **model) {
    *model = NULL;
    if (shape->border != BORDER) return STATUS_OTHER_BORDER;
    if (!is_computable(shape)) return STATUS_BAD_SHAPE;
    if (!tensors || count < 0) return STATUS_BAD_TENSOR;
    const Ops *ops = ops_named(instructions);
    if (!ops) return STATUS_BAD_INSTRUCTIONS;
    Model *made = calloc(1, sizeof *made + shape->layers * sizeof(Layer));
    if (!made) return STATUS_NO_MEMORY;
    made->shape = *shape, made->ops = ops;
    divide_work(made);
    Tensors given = {tensors, tensors + count, 0};
    take_all(&given, made);
    if (given.wrong || given.next != given.end) {
        free(made);
        return STATUS_BAD_TENSOR;
    }
    *model = made;
    return STATUS_OK;
}

void model_unload(Model *model) { free(model); }

struct Pass {
    const Model *model;
    Scratch scratch;
    Prefixes prefixes;
};

int pass_open(const Model *model, int64_t prefix_bytes, Pass **pass) {
    *pass = calloc(1, sizeof **pass);
    if (!*pass) return STATUS_NO_MEMORY;
    (*pass)->model = model;
    (*pass)->prefixes.most_bytes = prefix_bytes;
    return STATUS_OK;
}

void pass_close(Pass *pass) {
    empty(&pass->scratch);
    for (int i = 0; i < MOST_PREFIXES; i++) forget(&pass->prefixes, &pass->prefixes.slots[i]);
    free(pass);
}

int64_t pass_kept(const Pass *pass) { return pass->prefixes.bytes; }

/* Tokens that a row may have. */
static int32_t longest(const Shape *shape, const Batch *batch) {
    return batch->length < shape->positions ? batch->length : shape->positions;
}

/* Whether any of these lies outside 0..limit-1. */
static int any_outside(const int64_t *values, int count, int32_t limit) {
    int outside = 0;
    for (int at = 0; at < count; at++) outside |= (uint64_t)values[at] >= (uint64_t)limit;
    return outside;
}

static Status batch_status(const Shape *shape, const Batch *b) {
    const int64_t tokens = (int64_t)b->rows * b->length, width = shape->scores ? 1 : shape->hidden;
    if (b->rows < 1 || b->length < 1 || !b->ids || !b->types || !b->lengths || !b->prefixes || !b->out || b->id_count != tokens
        || b->type_count != tokens || b->length_count != b->rows || b->prefix_count != b->rows || b->out_count != b->rows * width)
        return STATUS_BAD_BATCH;
    const int32_t most = longest(shape, b);
    for (int row = 0; row < b->rows; row++) {
        const int32_t length = b->lengths[row], prefix = b->prefixes[row];
        if (length < 1 || length > most || prefix < 0 || prefix >= length) return STATUS_BAD_LENGTH;
    }
    for (int row = 0; row < b->rows; row++) {
        const int64_t at = (int64_t)row * b->length;
        if (any_outside(b->ids + at, b->lengths[row], shape->vocabulary)) return STATUS_BAD_ID;
        if (shape->types && any_outside(b->types + at, b->lengths[row], shape->types)) return STATUS_BAD_TYPE;
    }
    return STATUS_OK;
}

int pass_forward(Pass *pass, const Batch *batch) {
    const Model *model = pass->model;
    const Status status = batch_status(&model->shape, batch);
    if (status != STATUS_OK) return status;
    if (!make_room(model, longest(&model->shape, batch), &pass->scratch)) return STATUS_NO_MEMORY;
    compute(model, &pass->scratch, &pass->prefixes, batch);
    return STATUS_OK;
}
