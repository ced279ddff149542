/* Decoders and batches, right and wrong ones, for the border of the native kernels; see border.c, which does so for BERT.
 *
 * Each batch that is computed is computed again without any prefix that was kept: the results must be equal to the bit.
 */
#include <stddef.h>
#include "inputs.h"

#define aligned_alloc scarce
#include "../../webapp/engine/native/decoder.c"
#undef aligned_alloc

typedef struct {
    DecoderShape shape;
    Tensor tensors[MOST_TENSORS];
    int64_t count;
    void *owned[MOST_TENSORS];
    bool changed;
    bool wild; /* weights may be any bits, NaN among them */
} Made;

static void add(Made *made, int64_t bytes) { made->tensors[made->count++].bytes = bytes; }

static void add_matrix(Made *made, int64_t inputs, int64_t outputs) {
    const int64_t scales = 4 * outputs * groups_of(inputs, made->shape.group);
    add(made, inputs * outputs), add(made, scales), add(made, scales), add(made, 4 * outputs);
}

static void describe(Made *made) {
    const int kv_heads = from(1, 2);
    made->shape = (DecoderShape){
        .border = BORDER, .vocabulary = from(1, 40), .positions = from(1, 300), .hidden = 16 * from(1, 4),
        .wide = 16 * from(1, 5), .layers = from(1, 2), .heads = kv_heads * from(1, 2), .kv_heads = kv_heads,
        .dim = 16 * from(1, 2), .group = 16 * from(1, 4), .normalises_heads = from(0, 1), .gelu = from(0, 1),
        .causal = from(0, 3) > 0, .mean = from(0, 1), .epsilon = 1e-6f,
    };
    const DecoderShape *s = &made->shape;
    const int64_t queries = width_of_queries(s);
    add(made, 2 * s->vocabulary * s->hidden), add(made, 2 * s->dim), add(made, 4 * s->hidden), add(made, 4 * s->hidden);
    for (int layer = 0; layer < s->layers; layer++) {
        add_matrix(made, s->hidden, width_of_qkv(s)), add_matrix(made, queries, s->hidden);
        add_matrix(made, s->hidden, s->wide), add_matrix(made, s->hidden, s->wide), add_matrix(made, s->wide, s->hidden);
        add(made, 4 * s->hidden), add(made, 4 * s->hidden);
        if (s->normalises_heads) add(made, 4 * s->dim), add(made, 4 * s->dim);
    }
}

/* Change one thing about a model. */
static void change_model(Made *made) {
    int32_t *const sizes = &made->shape.border;
    const int count = offsetof(DecoderShape, epsilon) / sizeof *sizes, which = from(0, count + 3);
    made->changed = made->wild = true;
    if (which < count) {
        sizes[which] = (int32_t)odd(2 * (int64_t)sizes[which]);
    } else if (which == count) {
        const uint32_t bits = (uint32_t)next(4);
        memcpy(&made->shape.epsilon, &bits, sizeof bits);
    } else if (which == count + 1) {
        made->count = from(0, MOST_TENSORS);
    } else {
        Tensor *tensor = &made->tensors[from(0, MOST_TENSORS - 1)];
        tensor->bytes = odd(tensor->bytes);
        if (tensor->bytes > LARGEST_BUFFER) tensor->bytes = LARGEST_BUFFER;
    }
}

static void allocate(Made *made) {
    for (int i = 0; i < MOST_TENSORS; i++) {
        Tensor *tensor = &made->tensors[i];
        tensor->at = made->owned[i] = exactly(tensor->bytes, 1);
        fill(made->owned[i], tensor->bytes, made->wild);
        uint16_t *words = made->owned[i];
        for (int64_t at = 0; i == 0 && !made->wild && at < tensor->bytes / 2; at++)
            words[at] = 0x3f00 + (uint16_t)(random_number() & 0x80ff); /* of bfloat16: 0.5 to 2, of either sign */
    }
}

/* What a model that was taken must be, said once more and otherwise. */
static void require_sound(const Made *made) {
    const DecoderShape *s = &made->shape;
    require(s->hidden % 16 == 0 && s->wide % 16 == 0 && s->dim % 16 == 0 && s->group % 16 == 0, "a width");
    require(s->kv_heads > 0 && s->heads % s->kv_heads == 0, "heads");
    require(s->layers > 0 && made->count == 4 + s->layers * (22 + 2 * s->normalises_heads), "the number of tensors");
}

/* A batch with buffers of exactly the sizes that it states, whose rows begin alike. */
static void put_batch(DecoderScratch *scratch, const DecoderModel *model, bool wild) {
    const DecoderShape *shape = &model->shape;
    const int length = from(1, 320), rows = from(1, 1 + 1500 / length);
    const int longest_row = length < shape->positions ? length : shape->positions;
    DecoderBatch batch = {.rows = rows, .length = length, .id_count = (int64_t)rows * length, .length_count = rows,
                          .prefix_count = rows, .out_count = rows};
    int64_t *const counts[] = {&batch.id_count, &batch.length_count, &batch.prefix_count, &batch.out_count};
    const int change = from(0, 19); /* half of them are none */
    const bool changed = change < 10;
    if (change < 4) {
        *counts[change] = odd(*counts[change]);
        if (*counts[change] > LARGEST_BUFFER / 8) *counts[change] = LARGEST_BUFFER / 8;
    }
    if (change == 4) batch.rows = (int32_t)odd(rows);
    if (change == 5) batch.length = (int32_t)odd(length);
    int64_t *ids = exactly(batch.id_count, sizeof *ids);
    int32_t *lengths = exactly(batch.length_count, sizeof *lengths);
    int32_t *prefixes = exactly(batch.prefix_count, sizeof *prefixes);
    float *out = exactly(batch.out_count, sizeof *out);
    for (int64_t i = 0; i < batch.id_count; i++) {
        const int64_t place = i % length;
        ids[i] = (int64_t)((place < 100 ? (uint64_t)place : random_number()) % shape->vocabulary);
    }
    for (int64_t i = 0; i < batch.length_count; i++) lengths[i] = 1 + (int32_t)(random_number() % longest_row);
    for (int64_t i = 0; i < batch.prefix_count; i++)
        prefixes[i] = i < batch.length_count ? (int32_t)(random_number() % lengths[i]) : 0;
    if (change == 6 && batch.id_count > 0) ids[next(1) % batch.id_count] = odd(shape->vocabulary);
    if (change == 7 && batch.length_count > 0) lengths[next(1) % batch.length_count] = (int32_t)odd(shape->positions + 1);
    if (change == 8 && batch.prefix_count > 0) prefixes[next(1) % batch.prefix_count] = (int32_t)odd(length);
    batch.ids = ids, batch.lengths = lengths, batch.prefixes = prefixes, batch.out = change == 9 ? NULL : out;
    const int status = decoder_forward(scratch, &batch);
    require(status == STATUS_OK || changed || status == STATUS_NO_MEMORY, "it refuses a batch that is right");
    require(decoder_kept(scratch) >= 0 && decoder_kept(scratch) <= scratch->prefixes.most_bytes, "too much is kept");
    if (status == STATUS_OK && !wild) {
        DecoderScratch *other;
        float *again = exactly(rows, sizeof *again);
        allocations_left = INT32_MAX;
        require(decoder_open(model, 0, &other) == STATUS_OK, "no scratch");
        for (int row = 0; row < batch.rows; row++) require(isfinite(out[row]), "a result that is no number");
        batch.out = again;
        require(decoder_forward(other, &batch) == STATUS_OK, "it refuses a batch that it computed");
        require(!memcmp(out, again, batch.rows * sizeof *again), "a result that depends on prefixes");
        decoder_close(other);
        free(again);
    }
    free(ids), free(lengths), free(prefixes), free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const DecoderShape none;
    Made made = {.shape = none};
    input = data, input_end = data + size;
    random_state = 1;
    random_state = 0x9e3779b97f4a7c15 * (next(2) + 1);
    made.wild = next(1) % 4 == 3;
    describe(&made);
    for (int changes = from(0, 5) - 3; changes > 0; changes--) change_model(&made);
    allocate(&made);
    DecoderModel *model;
    const int status = decoder_load(&made.shape, made.tensors, made.count, instructions, &model);
    require(status == STATUS_OK || made.changed, "it refuses a model that is right");
    require((status == STATUS_OK) == (model != NULL), "status and model differ");
    if (model) {
        require_sound(&made);
        DecoderScratch *scratch;
        require(decoder_open(model, from(0, 3) * 20000, &scratch) == STATUS_OK, "no scratch");
        for (int batches = from(1, 4); batches > 0; batches--) {
            allocations_left = next(1) % 16 == 15 ? from(0, 12) : INT32_MAX;
            put_batch(scratch, model, made.wild);
        }
        decoder_close(scratch);
        decoder_unload(model);
    }
    for (int i = 0; i < MOST_TENSORS; i++) free(made.owned[i]);
    return 0;
}
