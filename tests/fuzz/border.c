/* Models and batches, right and wrong ones, for the border of the native kernels; scripts/fuzz builds and runs this.
 *
 * An input is a list of small numbers: the shape of a model, what is changed about it, then batches and what is changed
 * about them. Every buffer is allocated by itself and exactly as large as the border is told, so AddressSanitizer sees
 * whatever is read or written outside. What was not changed must be computed, what is refused must have been changed, and
 * what was computed must have been right. It is computed again without any prefix that was kept, and a row of it alone: the
 * results must be equal to the bit.
 */
#include <stddef.h>
#include "inputs.h"

#define aligned_alloc scarce
#include "../../webapp/engine/native/border.c"
#undef aligned_alloc

typedef struct {
    Shape shape;
    Tensor tensors[MOST_TENSORS];
    int64_t count;
    void *owned[MOST_TENSORS];
    bool is_int8[MOST_TENSORS];
    int misaligned; /* a tensor that begins a byte late; -1: none does */
    bool changed;
    bool wild; /* weights may be any bits, NaN among them */
} Made;

static void add_floats(Made *made, int64_t count) { made->tensors[made->count++].bytes = 4 * count; }

static void add_bytes(Made *made, int64_t count) {
    made->is_int8[made->count] = true;
    made->tensors[made->count++].bytes = count;
}

static void add_matrix(Made *made, int64_t inputs, int64_t outputs) {
    const int64_t scales = outputs * groups_of((int)inputs, made->shape.group);
    add_bytes(made, inputs * outputs), add_floats(made, scales), add_floats(made, scales), add_floats(made, outputs);
}

static void add_norm(Made *made, int width) {
    add_floats(made, width);
    if (!made->shape.rms) add_floats(made, width);
}

/* Any shape of what Shape allows together. */
static void describe_shape(Shape *s) {
    const int kv_heads = from(1, 2), scores = from(0, 1), head_dense = scores && from(0, 1), norms_first = from(0, 1);
    *s = (Shape){
        .border = BORDER, .vocabulary = from(1, 40), .positions = from(1, 300), .pad = -1, .rotaries = from(0, 2),
        .hidden = 16 * from(1, 4), .wide = 16 * from(1, 5), .layers = from(1, 2), .heads = kv_heads * from(1, 2),
        .kv_heads = kv_heads, .dim = 16 * from(1, 2), .group = 16 * from(1, 4), .causal = from(0, 1), .global_every = from(1, 3),
        .norms_first = norms_first, .rms = norms_first && from(0, 1), .normalises_words = from(0, 1),
        .normalises_heads = from(0, 1), .gated = from(0, 1), .activation = from(0, TANH - 1), .pool = from(0, POOLS - 1),
        .scores = scores, .head_dense = head_dense, .head_activation = head_dense ? from(0, ACTIVATIONS - 1) : IDENTITY,
        .head_norm = head_dense && from(0, 1), .epsilon = 1e-6f,
    };
    if (s->rotaries == 0) s->types = from(0, 3), s->pad = from(0, 1) - 1;
    if (s->rotaries == 2) s->window = from(1, 40);
    s->embedded = from(0, 1) ? s->hidden : 16 * from(1, s->hidden / 16);
    if (s->embedded > width_of_qkv(s)) s->embedded = 16;
}

static void describe(Made *made) {
    Shape *const s = &made->shape;
    describe_shape(s);
    add_bytes(made, s->vocabulary * s->embedded), add_floats(made, s->vocabulary), add_floats(made, s->embedded);
    add_floats(made, s->rotaries ? s->rotaries * s->dim / 2 : (s->positions + (s->pad >= 0)) * s->embedded);
    if (s->types) add_floats(made, s->types * s->embedded);
    if (s->normalises_words) add_norm(made, s->embedded);
    if (s->embedded < s->hidden) add_matrix(made, s->embedded, s->hidden);
    for (int layer = 0; layer < s->layers; layer++) {
        add_matrix(made, s->hidden, width_of_qkv(s)), add_matrix(made, width_of_queries(s), s->hidden);
        for (int i = 0; i <= s->gated; i++) add_matrix(made, s->hidden, s->wide);
        add_matrix(made, s->wide, s->hidden);
        if (layer || !s->norms_first || !s->normalises_words) add_norm(made, s->hidden);
        add_norm(made, s->hidden);
        if (s->normalises_heads) add_floats(made, s->dim), add_floats(made, s->dim);
    }
    if (s->norms_first) add_norm(made, s->hidden);
    if (s->head_dense) add_floats(made, s->hidden * s->hidden), add_floats(made, s->hidden);
    if (s->head_norm) add_floats(made, s->hidden), add_floats(made, s->hidden);
    if (s->scores) add_floats(made, s->hidden), add_floats(made, 1);
}

/* Change one thing about a model. */
static void change_model(Made *made) {
    int32_t *const sizes = &made->shape.border;
    const int count = offsetof(Shape, epsilon) / sizeof *sizes, which = from(0, count + 5);
    made->changed = made->wild = true;
    if (which < count) {
        sizes[which] = (int32_t)odd(2 * (int64_t)sizes[which]);
    } else if (which == count) {
        const uint32_t bits = (uint32_t)next(4);
        memcpy(&made->shape.epsilon, &bits, sizeof bits);
    } else if (which == count + 1) {
        made->count = from(0, MOST_TENSORS);
    } else if (which == count + 2) {
        made->misaligned = from(0, MOST_TENSORS - 1);
    } else {
        Tensor *tensor = &made->tensors[from(0, MOST_TENSORS - 1)];
        tensor->bytes = odd(tensor->bytes);
        if (tensor->bytes > LARGEST_BUFFER) tensor->bytes = LARGEST_BUFFER;
    }
}

static void allocate(Made *made) {
    for (int i = 0; i < MOST_TENSORS; i++) {
        Tensor *tensor = &made->tensors[i];
        const int late = i == made->misaligned && tensor->bytes > 0;
        made->owned[i] = exactly(tensor->bytes + late, 1);
        tensor->at = (uint8_t *)made->owned[i] + late;
        fill((uint8_t *)made->owned[i] + late, tensor->bytes, made->wild);
    }
}

/* What a model that was taken must be, said once more and otherwise. */
static void require_sound(const Made *made) {
    const Shape *s = &made->shape;
    require(s->hidden % 16 == 0 && s->wide % 16 == 0 && s->dim % 16 == 0 && s->group % 16 == 0, "a width");
    require(s->kv_heads > 0 && s->heads % s->kv_heads == 0, "heads");
    require(s->embedded % 16 == 0 && s->embedded <= s->hidden, "the width of embeddings");
    require((s->window > 0) == (s->rotaries == 2) && s->rotaries >= 0 && s->rotaries <= 2, "positions");
    require(s->activation >= 0 && s->activation < TANH && s->pool >= 0 && s->pool < POOLS, "a choice");
    require(!s->rms || s->norms_first, "root mean squares");
    const int32_t flags[] = {s->causal, s->norms_first, s->rms, s->normalises_words, s->normalises_heads, s->gated,
                             s->scores, s->head_dense, s->head_norm};
    for (unsigned i = 0; i < sizeof flags / sizeof *flags; i++) require((flags[i] & ~1) == 0, "a flag");
    const int norm = s->rms ? 1 : 2, in_layer = 16 + 4 * s->gated + 2 * norm + 2 * s->normalises_heads;
    const int in_head = s->scores ? 2 + 2 * s->head_dense + 2 * s->head_norm : 0;
    const int without = s->norms_first && s->normalises_words ? norm : 0; /* the first layer's */
    const int norms = norm * (s->normalises_words + s->norms_first) + 4 * (s->embedded < s->hidden);
    require(made->count == 4 + (s->types > 0) + s->layers * in_layer - without + norms + in_head, "the number of tensors");
    require(made->misaligned < 0 || made->misaligned >= made->count || made->is_int8[made->misaligned], "a misaligned tensor");
}

typedef struct {
    int64_t *ids, *types;
    int32_t *lengths, *prefixes;
    float *out;
} Buffers;

NOT_FOLLOWED static void fill_batch(const Shape *shape, const Batch *batch, int length, int most, const Buffers *own) {
    for (int64_t i = 0; i < batch->id_count; i++) { /* rows begin alike */
        const int64_t place = i % length;
        own->ids[i] = (int64_t)((place < 100 ? (uint64_t)place : random_number()) % shape->vocabulary);
    }
    for (int64_t i = 0; i < batch->type_count; i++)
        own->types[i] = (int64_t)(shape->types ? random_number() % shape->types : random_number());
    for (int64_t i = 0; i < batch->length_count; i++) own->lengths[i] = 1 + (int32_t)(random_number() % most);
    for (int64_t i = 0; i < batch->prefix_count; i++)
        own->prefixes[i] = i < batch->length_count ? (int32_t)(random_number() % own->lengths[i]) : 0;
}

/* What a batch that was computed must be. */
NOT_FOLLOWED static void require_right(const Shape *shape, const Batch *batch) {
    require(batch->rows > 0 && batch->length > 0, "an empty batch");
    for (int row = 0; row < batch->rows; row++) {
        const int32_t length = batch->lengths[row];
        require(length >= 1 && length <= batch->length && length <= shape->positions, "a length");
        require(batch->prefixes[row] >= 0 && batch->prefixes[row] < length, "a prefix");
        for (int64_t i = (int64_t)row * batch->length, end = i + length; i < end; i++) {
            require(batch->ids[i] >= 0 && batch->ids[i] < shape->vocabulary, "an id");
            require(!shape->types || (batch->types[i] >= 0 && batch->types[i] < shape->types), "a type");
        }
    }
}

/* Compute a batch again without prefixes, and a row of it alone. */
static void require_same_again(const Model *model, Batch batch) {
    Pass *other;
    const float *out = batch.out;
    const int64_t width = batch.out_count / batch.rows, row = (int64_t)(random_number() % batch.rows);
    float *again = exactly(batch.out_count, sizeof *again);
    allocations_left = INT32_MAX;
    require(pass_open(model, 0, &other) == STATUS_OK, "no scratch");
    for (int64_t i = 0; i < batch.out_count; i++) require(isfinite(out[i]), "a result that is no number");
    batch.out = again;
    require(pass_forward(other, &batch) == STATUS_OK, "it refuses a batch that it computed");
    require(!memcmp(out, again, batch.out_count * sizeof *again), "a result that depends on prefixes");
    const Batch alone = {.rows = 1, .length = batch.length, .ids = batch.ids + row * batch.length,
                         .types = batch.types + row * batch.length, .lengths = batch.lengths + row,
                         .prefixes = batch.prefixes + row, .out = again, .id_count = batch.length,
                         .type_count = batch.length, .length_count = 1, .prefix_count = 1, .out_count = width};
    require(pass_forward(other, &alone) == STATUS_OK, "it refuses a row that it computed");
    require(!memcmp(out + row * width, again, width * sizeof *again), "a result that depends on other rows");
    pass_close(other);
    free(again);
}

/* A batch with buffers of exactly the sizes that it states. */
static void put_batch(Pass *pass, const Model *model, bool wild) {
    const Shape *shape = &model->shape;
    const int length = from(1, 320), rows = from(1, 1 + 1500 / length), width = shape->scores ? 1 : shape->hidden;
    const int64_t tokens = (int64_t)rows * length;
    Batch batch = {.rows = rows, .length = length, .id_count = tokens, .type_count = tokens, .length_count = rows,
                   .prefix_count = rows, .out_count = (int64_t)rows * width};
    int64_t *const counts[] = {&batch.id_count, &batch.type_count, &batch.length_count, &batch.prefix_count, &batch.out_count};
    const int change = from(0, 23); /* half of them are none */
    if (change < 5) {
        *counts[change] = odd(*counts[change]);
        if (*counts[change] > LARGEST_BUFFER / 8) *counts[change] = LARGEST_BUFFER / 8;
    }
    if (change == 5) batch.rows = (int32_t)odd(rows);
    if (change == 6) batch.length = (int32_t)odd(length);
    const Buffers own = {
        exactly(batch.id_count, sizeof *own.ids), exactly(batch.type_count, sizeof *own.types),
        exactly(batch.length_count, sizeof *own.lengths), exactly(batch.prefix_count, sizeof *own.prefixes),
        exactly(batch.out_count, sizeof *own.out),
    };
    fill_batch(shape, &batch, length, length < shape->positions ? length : shape->positions, &own);
    const int place = (int)next(2);
    if (change == 7 && batch.id_count > 0) own.ids[place % batch.id_count] = odd(shape->vocabulary);
    if (change == 8 && batch.type_count > 0) own.types[place % batch.type_count] = odd(shape->types);
    if (change == 9 && batch.length_count > 0) own.lengths[place % batch.length_count] = (int32_t)odd(shape->positions + 1);
    if (change == 10 && batch.prefix_count > 0) own.prefixes[place % batch.prefix_count] = (int32_t)odd(length);
    batch.ids = own.ids, batch.types = own.types, batch.lengths = own.lengths, batch.prefixes = own.prefixes;
    batch.out = change == 11 ? NULL : own.out;
    const Status status = pass_forward(pass, &batch);
    require(status == STATUS_OK || change < 12 || status == STATUS_NO_MEMORY, "it refuses a batch that is right");
    require(pass_kept(pass) >= 0 && pass_kept(pass) <= pass->prefixes.most_bytes, "too much is kept");
    if (status == STATUS_OK) require_right(shape, &batch);
    if (status == STATUS_OK && !wild) require_same_again(model, batch);
    free(own.ids), free(own.types), free(own.lengths), free(own.prefixes), free(own.out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const Shape none;
    Made made = {.shape = none, .misaligned = -1};
    input = data, input_end = data + size;
    random_state = 1;
    random_state = 0x9e3779b97f4a7c15 * (next(2) + 1);
    made.wild = next(1) % 4 == 3;
    describe(&made);
    for (int changes = from(0, 5) - 3; changes > 0; changes--) change_model(&made);
    allocate(&made);
    Model *model;
    const int status = model_load(&made.shape, made.tensors, made.count, instructions, &model);
    require(status == STATUS_OK || made.changed, "it refuses a model that is right");
    require((status == STATUS_OK) == (model != NULL), "status and model differ");
    if (model) {
        require_sound(&made);
        Pass *pass;
        require(pass_open(model, from(0, 3) * 20000, &pass) == STATUS_OK, "no scratch");
        for (int batches = from(1, 4); batches > 0; batches--) {
            allocations_left = next(1) % 16 == 15 ? from(0, 15) : INT32_MAX;
            put_batch(pass, model, made.wild);
        }
        pass_close(pass);
        model_unload(model);
    }
    for (int i = 0; i < MOST_TENSORS; i++) free(made.owned[i]);
    return 0;
}
