/* Models and batches, right and wrong ones, for the border of the native kernels; scripts/fuzz builds and runs this.
 *
 * An input is a list of small numbers: the shape of a model, what is changed about it, then batches and what is changed
 * about them. Every buffer is allocated by itself and exactly as large as the border is told, so AddressSanitizer sees
 * whatever is read or written outside. What was not changed must be computed, what is refused must have been changed, and
 * what was computed must have been right.
 */
#include "inputs.h"

#define aligned_alloc scarce
#include "../../webapp/engine/native/border.c"
#undef aligned_alloc

typedef struct {
    BertShape shape;
    Tensor tensors[MOST_TENSORS];
    int64_t count;
    void *owned[MOST_TENSORS];
    int misaligned; /* a tensor that begins a byte late; -1: none does */
    bool changed;
    bool wild; /* weights may be any bits, NaN among them */
} Made;

static void add(Made *made, int64_t bytes) { made->tensors[made->count++].bytes = bytes; }

static void add_matrix(Made *made, int64_t inputs, int64_t outputs) {
    add(made, inputs * outputs);
    for (int i = 0; i < 3; i++) add(made, 4 * outputs);
}

static void describe(Made *made) {
    const int dim = 16 * from(1, 2), heads = from(1, 2), hidden = dim * heads;
    made->shape = (BertShape){
        .border = BORDER, .vocabulary = from(1, 40), .positions = from(1, 300), .types = from(1, 3),
        .hidden = hidden, .heads = heads, .wide = 16 * from(1, 5), .layers = from(1, 2), .classifies = from(0, 1),
        .pad = from(0, 1) - 1, .epsilon = 1e-12f,
    };
    const BertShape *s = &made->shape;
    add(made, 4 * s->vocabulary * hidden), add(made, 4 * (s->positions + (s->pad >= 0)) * hidden);
    add(made, 4 * s->types * hidden);
    add(made, 4 * hidden), add(made, 4 * hidden);
    for (int layer = 0; layer < s->layers; layer++) {
        add_matrix(made, hidden, 3 * hidden), add_matrix(made, hidden, hidden);
        add_matrix(made, hidden, s->wide), add_matrix(made, s->wide, hidden);
        for (int i = 0; i < 4; i++) add(made, 4 * hidden);
    }
    if (s->classifies) add(made, 4 * hidden * hidden), add(made, 4 * hidden), add(made, 4 * hidden), add(made, 4);
}

/* Change one thing about a model. */
static void change_model(Made *made) {
    int32_t *const sizes[] = {&made->shape.border, &made->shape.vocabulary, &made->shape.positions, &made->shape.types,
                              &made->shape.hidden, &made->shape.heads, &made->shape.wide, &made->shape.layers,
                              &made->shape.classifies, &made->shape.pad};
    const int count = sizeof sizes / sizeof *sizes, which = from(0, count + 5);
    made->changed = true;
    if (which < count) {
        *sizes[which] = (int32_t)odd(2 * (int64_t)*sizes[which]);
    } else if (which == count) {
        const uint32_t bits = (uint32_t)next(4);
        memcpy(&made->shape.epsilon, &bits, sizeof bits);
        made->wild = true;
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
    const BertShape *s = &made->shape;
    require(s->hidden % 16 == 0 && s->wide % 16 == 0 && s->hidden % s->heads == 0 && s->hidden / s->heads % 16 == 0, "a width");
    require(s->layers > 0 && made->count == 5 + 20 * s->layers + 4 * s->classifies, "the number of tensors");
    const int in_layer = (made->misaligned - 5) % 20;
    const bool is_int8 = made->misaligned >= 5 && made->misaligned < 5 + 20 * s->layers && in_layer < 16 && in_layer % 4 == 0;
    require(made->misaligned < 0 || made->misaligned >= made->count || is_int8, "a misaligned tensor");
}

NOT_FOLLOWED static void fill_batch(const BertShape *shape, const BertBatch *batch, int most, int64_t *ids, int64_t *types,
                                    int32_t *lengths) {
    for (int64_t i = 0; i < batch->id_count; i++) ids[i] = (int64_t)(random_number() % shape->vocabulary);
    for (int64_t i = 0; i < batch->type_count; i++) types[i] = (int64_t)(random_number() % shape->types);
    for (int64_t i = 0; i < batch->length_count; i++) lengths[i] = 1 + (int32_t)(random_number() % most);
}

/* What a batch that was computed must be, and its results. */
NOT_FOLLOWED static void require_right(const BertShape *shape, const BertBatch *batch, bool wild) {
    require(batch->rows > 0 && batch->length > 0, "an empty batch");
    for (int row = 0; row < batch->rows; row++) {
        const int32_t length = batch->lengths[row];
        require(length >= 1 && length <= batch->length && length <= shape->positions, "a length");
        for (int64_t i = (int64_t)row * batch->length, end = i + length; i < end; i++) {
            require(batch->ids[i] >= 0 && batch->ids[i] < shape->vocabulary, "an id");
            require(batch->types[i] >= 0 && batch->types[i] < shape->types, "a type");
        }
    }
    for (int64_t i = 0; i < batch->out_count; i++) require(wild || isfinite(batch->out[i]), "a result that is no number");
}

/* A batch with buffers of exactly the sizes that it states. */
static void put_batch(BertScratch *scratch, const BertShape *shape, bool wild) {
    const int length = from(1, 320), rows = from(1, 1 + 700 / length), width = shape->classifies ? 1 : shape->hidden;
    const int64_t tokens = (int64_t)rows * length;
    BertBatch batch = {.rows = rows, .length = length, .id_count = tokens, .type_count = tokens, .length_count = rows,
                       .out_count = (int64_t)rows * width};
    int64_t *const counts[] = {&batch.id_count, &batch.type_count, &batch.length_count, &batch.out_count};
    const int changes = from(0, 5) - 2; /* half of them have none */
    bool changed = false;
    int late[2][2] = {{-1}, {-1}}; /* buffers to be changed once they are filled */
    for (int i = 0; i < changes; i++) {
        const int which = from(0, 9);
        changed = true;
        if (which < 4) {
            *counts[which] = odd(*counts[which]);
            if (*counts[which] > LARGEST_BUFFER / 8) *counts[which] = LARGEST_BUFFER / 8;
        } else if (which == 4) {
            batch.rows = (int32_t)odd(rows);
        } else if (which == 5) {
            batch.length = (int32_t)odd(length);
        } else {
            late[i % 2][0] = which - 6;
            late[i % 2][1] = (int)next(2);
        }
    }
    int64_t *ids = exactly(batch.id_count, sizeof *ids), *types = exactly(batch.type_count, sizeof *types);
    int32_t *lengths = exactly(batch.length_count, sizeof *lengths);
    float *out = exactly(batch.out_count, sizeof *out);
    fill_batch(shape, &batch, length < shape->positions ? length : shape->positions, ids, types, lengths);
    batch.ids = ids, batch.types = types, batch.lengths = lengths, batch.out = out;
    for (int i = 0; i < 2; i++) {
        const int place = late[i][1];
        if (late[i][0] == 0 && batch.id_count > 0) ids[place % batch.id_count] = odd(shape->vocabulary);
        if (late[i][0] == 1 && batch.type_count > 0) types[place % batch.type_count] = odd(shape->types);
        if (late[i][0] == 2 && batch.length_count > 0) lengths[place % batch.length_count] = (int32_t)odd(shape->positions + 1);
        if (late[i][0] == 3) batch.ids = NULL;
    }
    const Status status = bert_forward(scratch, &batch);
    if (status == STATUS_OK) {
        require_right(shape, &batch, wild);
    } else {
        require(changed || status == STATUS_NO_MEMORY, "it refuses a batch that is right");
    }
    free(ids), free(types), free(lengths), free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const BertShape none;
    Made made = {.shape = none, .misaligned = -1};
    input = data, input_end = data + size;
    random_state = 1;
    random_state = 0x9e3779b97f4a7c15 * (next(2) + 1);
    made.wild = next(1) % 4 == 3;
    describe(&made);
    for (int changes = from(0, 5) - 3; changes > 0; changes--) change_model(&made);
    allocate(&made);
    BertModel *model;
    const int status = bert_load(&made.shape, made.tensors, made.count, instructions, &model);
    require(status == STATUS_OK || made.changed, "it refuses a model that is right");
    require((status == STATUS_OK) == (model != NULL), "status and model differ");
    if (model) {
        require_sound(&made);
        BertScratch *scratch;
        require(bert_open(model, &scratch) == STATUS_OK, "no scratch");
        for (int batches = from(1, 4); batches > 0; batches--) {
            allocations_left = next(1) % 16 == 15 ? from(0, 8) : INT32_MAX;
            put_batch(scratch, &made.shape, made.wild);
        }
        bert_close(scratch);
        bert_unload(model);
    }
    for (int i = 0; i < MOST_TENSORS; i++) free(made.owned[i]);
    return 0;
}
