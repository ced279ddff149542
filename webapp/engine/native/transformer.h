/* A transformer for one thread: token ids in, logits or vectors out.
 *
 * One graph for encoders and decoders; Shape says what a model has (border.h). Sequences lie one after the other, so padding
 * costs nothing. Matrix products are int8, everything between them float32 (ops.h). Work goes through in groups of whole
 * sequences and, between attention and attention, in blocks of rows that stay in the second cache.
 *
 * Rows of a decoder that begin alike share the keys and values of their beginning (prefixes.h). The first of them computes all
 * its tokens and keeps those; the others compute only what comes after. Each token's numbers are made in the same way and
 * order in either case, so scores are equal to the bit.
 *
 * The library has no state: weights belong to the caller (they are mapped from a file), scratch to the calling thread. All
 * that comes here was checked in border.c.
 */
#pragma once
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "border.h"
#include "dispatch.h"
#include "prefixes.h"

#define MOST_GROUP_TOKENS 1024

typedef struct {
    const float *gain, *shift; /* gain NULL: there is no norm */
} Norm;

typedef struct {
    Linear qkv, mix, gate, up, down;
    Norm mix_norm, wide_norm;
    const float *query_gain, *key_gain; /* NULL: heads are not normalised */
    int window, rotary;                 /* window 0: a token sees all; rotary: which kind of positions */
} Layer;

typedef struct {
    const float *dense, *dense_bias; /* NULL: there is none */
    Norm norm;
    const float *out, *out_bias;
} Head;

struct Model {
    const Ops *ops;
    const int8_t *words;
    const float *word_scales, *channels, *frequencies, *positions, *types;
    Norm word_norm, last_norm;
    Linear widened; /* from embeddings; without outputs: there is none */
    Head head;
    Shape shape;
    int group_tokens; /* a group ends at this many tokens, or after one longer sequence */
    int block_rows;
    Layer layers[]; /* [shape.layers] */
};

typedef struct {
    const Prefix *before; /* tokens that it sees before its own; NULL: none */
    Prefix *kept;         /* takes keys and values of its first tokens; NULL: none does */
    int start, count;     /* its own tokens: place in the group, number */
} Row;

typedef struct {
    float *x, *qkv, *mixed, *turns; /* of the group's tokens */
    float *narrow, *wide;           /* of a block of rows: of `hidden` numbers, and of `wide` */
    float *row_scales, *row_zeros;
    uint8_t *values;
    float *seen;                    /* keys and values of one sequence and head */
    float *pooled, *dense;          /* vectors */
    Row *rows;
    int length; /* tokens of a sequence that it is large enough for */
} Scratch;

static int width_of_queries(const Shape *shape) { return shape->heads * shape->dim; }
static int width_of_keys(const Shape *shape) { return shape->kv_heads * shape->dim; }
static int width_of_qkv(const Shape *shape) { return width_of_queries(shape) + 2 * width_of_keys(shape); }

/* Say how much goes through together. Large weights are read from memory, so few times, for many rows each; small ones stay in
 * a cache, and so should the rows. Blocks are a multiple of the rows that any instruction set computes together: 4, 5 or 8.
 */
static void divide_work(Model *model) {
    const int is_large = (int64_t)model->shape.hidden * model->shape.wide >= 3 << 20;
    model->group_tokens = is_large ? MOST_GROUP_TOKENS : 256;
    model->block_rows = is_large ? 120 : 40;
}

static void empty(Scratch *s) {
    free(s->x), free(s->qkv), free(s->mixed), free(s->turns), free(s->narrow), free(s->wide), free(s->row_scales);
    free(s->row_zeros), free(s->values), free(s->seen), free(s->pooled), free(s->dense), free(s->rows);
    memset(s, 0, sizeof *s);
}

static void *bytes(size_t count) { return aligned_alloc(64, (count + 127) / 64 * 64); }

/* Make room for sequences of this many tokens; 0 when there is no memory for them. */
static int make_room(const Model *model, int length, Scratch *s) {
    const Shape *shape = &model->shape;
    if (length <= s->length) return 1;
    const size_t hidden = shape->hidden, wide = shape->wide, queries = width_of_queries(shape), rows = model->block_rows;
    const size_t tokens = length < model->group_tokens ? model->group_tokens : length;
    const size_t widest = wide > hidden ? (wide > queries ? wide : queries) : (hidden > queries ? hidden : queries);
    const size_t groups = groups_of(widest, shape->group);
    empty(s);
    s->x = bytes(4 * tokens * hidden);
    s->qkv = bytes(4 * tokens * width_of_qkv(shape));
    s->mixed = bytes(4 * tokens * queries);
    s->turns = bytes(4 * tokens * shape->rotaries * shape->dim);
    s->narrow = bytes(4 * rows * hidden);
    s->wide = bytes(4 * rows * wide);
    s->row_scales = bytes(4 * rows * groups);
    s->row_zeros = bytes(4 * rows * groups);
    s->values = bytes(rows * widest);
    s->seen = bytes(4 * model->ops->seen_floats(shape->dim, length));
    s->pooled = bytes(4 * hidden);
    s->dense = bytes(4 * hidden);
    s->rows = bytes(MOST_GROUP_TOKENS * sizeof(Row));
    if (!(s->x && s->qkv && s->mixed && s->turns && s->narrow && s->wide && s->row_scales && s->row_zeros && s->values
          && s->seen && s->pooled && s->dense && s->rows))
        return 0;
    s->length = length;
    return 1;
}

/* Quantise some rows. */
static Quantised quantised(const Model *model, const float *x, int rows, int width, const Scratch *s) {
    const Quantised q = {s->values, s->row_scales, s->row_zeros};
    model->ops->quantise(x, rows, width, model->shape.group, q);
    return q;
}

/* out may be x. */
static void normalise(const Model *model, const Norm *norm, const float *x, int rows, int width, float *out) {
    if (model->shape.rms) {
        model->ops->rms_norm(x, rows, width, norm->gain, model->shape.epsilon, out);
        return;
    }
    if (out != x) memcpy(out, x, sizeof(float) * rows * width);
    model->ops->layer_norm(out, NULL, rows, width, norm->gain, norm->shift, model->shape.epsilon);
}

/* Quantise some rows as a part of a layer reads them. */
static Quantised read_rows(const Model *model, const Norm *norm, const float *x, int rows, const Scratch *s) {
    if (!model->shape.norms_first || !norm->gain) return quantised(model, x, rows, model->shape.hidden, s);
    normalise(model, norm, x, rows, model->shape.hidden, s->narrow);
    return quantised(model, s->narrow, rows, model->shape.hidden, s);
}

/* Add what a part of a layer gives. x: [rows][hidden]. */
static void add_product(const Model *model, const Linear *linear, const Norm *norm, const Quantised *q, int rows, float *x, const Scratch *s) {
    const int hidden = model->shape.hidden;
    if (model->shape.norms_first) {
        model->ops->multiply(linear, 0, hidden, q, rows, x, hidden, PLUS);
    } else {
        model->ops->multiply(linear, 0, hidden, q, rows, s->narrow, hidden, NOTHING);
        model->ops->layer_norm(x, s->narrow, rows, hidden, norm->gain, norm->shift, model->shape.epsilon);
    }
}

/* Normalise a head of queries or keys, and turn it to its position, where the model does so. */
static void place(const Model *model, float *head, const float *gain, const float *turn) {
    if (gain) model->ops->rms_norm(head, 1, model->shape.dim, gain, model->shape.epsilon, head);
    if (turn) model->ops->rotate(head, model->shape.dim, turn);
}

/* Outputs [from, to) of queries, keys and values for tokens [first, first + count) of the group, heads placed. */
static void project(const Model *model, const Layer *layer, int first, int count, int from, int to, const Scratch *s) {
    const Shape *shape = &model->shape;
    const int stride = width_of_qkv(shape), dim = shape->dim, queries = width_of_queries(shape);
    const int are_placed = shape->rotaries || shape->normalises_heads;
    const int placed = !are_placed ? 0 : to < queries + width_of_keys(shape) ? to : queries + width_of_keys(shape);
    for (int done = 0, rows; done < count; done += rows) {
        rows = count - done < model->block_rows ? count - done : model->block_rows;
        const int64_t token = first + done;
        const Quantised q = read_rows(model, &layer->mix_norm, s->x + token * shape->hidden, rows, s);
        model->ops->multiply(&layer->qkv, from, to, &q, rows, s->qkv + token * stride + from, stride, NOTHING);
        for (int row = 0; row < rows; row++) {
            const float *turn = shape->rotaries ? s->turns + ((token + row) * shape->rotaries + layer->rotary) * dim : NULL;
            for (int at = from; at < placed; at += dim)
                place(model, s->qkv + (token + row) * stride + at, at < queries ? layer->query_gain : layer->key_gain, turn);
        }
    }
}

/* Keep keys and values of a row's first tokens. */
static void keep(const Shape *shape, int number, const Row *row, const Scratch *s) {
    const int stride = width_of_qkv(shape), width = 2 * width_of_keys(shape), length = row->kept->length;
    float *to = row->kept->values + (int64_t)number * length * width;
    const float *from = s->qkv + (int64_t)row->start * stride + width_of_queries(shape);
    for (int token = 0; token < length; token++)
        memcpy(to + (int64_t)token * width, from + (int64_t)token * stride, width * sizeof(float));
}

/* Attention of a row's own tokens [first, first + asked); out: [asked][queries]. */
static void attend_row(const Model *model, int number, const Row *row, int first, int asked, float *out, const Scratch *s) {
    const Shape *shape = &model->shape;
    const Layer *layer = &model->layers[number];
    const int dim = shape->dim, queries = width_of_queries(shape), keys = width_of_keys(shape), stride = width_of_qkv(shape);
    const int before = row->before ? row->before->length : 0, length = before + row->count, place = before + first;
    const int shared_by = shape->heads / shape->kv_heads;
    Sight sight = {0, length, 0};
    if (shape->causal)
        sight = (Sight){layer->window ? place - layer->window : -LARGEST_LENGTH, place + 1, 1};
    else if (layer->window)
        sight = (Sight){place - layer->window, place + layer->window + 1, 1};
    const float *own = s->qkv + (int64_t)row->start * stride;
    for (int kv = 0; kv < shape->kv_heads; kv++) {
        const Seen seen = model->ops->see(s->seen, dim, length);
        if (before) {
            const float *kept = row->before->values + ((int64_t)number * before * 2 * keys + kv * dim);
            model->ops->hold(&seen, kept, kept + keys, 2 * keys, before, 0);
        }
        const float *key = own + queries + kv * dim;
        model->ops->hold(&seen, key, key + keys, stride, row->count, before);
        for (int head = kv * shared_by; head < (kv + 1) * shared_by; head++)
            model->ops->attend(&seen, own + (int64_t)first * stride + head * dim, stride, asked, sight, out + head * dim, queries);
    }
}

/* What follows attention: its output matrix and the feed-forward part. x: [rows][hidden], to which they are added. */
static void after_attention(const Model *model, const Layer *layer, float *x, int rows, const Scratch *s) {
    const Shape *shape = &model->shape;
    const Ops *ops = model->ops;
    const int hidden = shape->hidden, wide = shape->wide, queries = width_of_queries(shape);
    for (int from = 0; from < rows; from += model->block_rows) {
        const int count = rows - from < model->block_rows ? rows - from : model->block_rows;
        float *block = x + (int64_t)from * hidden;
        Quantised q = quantised(model, s->mixed + (int64_t)from * queries, count, queries, s);
        add_product(model, &layer->mix, &layer->mix_norm, &q, count, block, s);
        q = read_rows(model, &layer->wide_norm, block, count, s);
        ops->multiply(shape->gated ? &layer->gate : &layer->up, 0, wide, &q, count, s->wide, wide, shape->activation);
        if (shape->gated) ops->multiply(&layer->up, 0, wide, &q, count, s->wide, wide, TIMES);
        q = quantised(model, s->wide, count, wide, s);
        add_product(model, &layer->down, &layer->wide_norm, &q, count, block, s);
    }
}

/* One layer over all tokens of a group. Of the last one only what is pooled is needed: where that is one token of each row,
 * x shrinks to [count][hidden].
 */
static void run_layer(const Model *model, int number, int count, const Scratch *s) {
    const Shape *shape = &model->shape;
    const Layer *layer = &model->layers[number];
    const int hidden = shape->hidden, queries = width_of_queries(shape);
    const int shrinks = number == shape->layers - 1 && shape->pool != MEAN;
    const int tokens = s->rows[count - 1].start + s->rows[count - 1].count;
    project(model, layer, 0, tokens, shrinks ? queries : 0, width_of_qkv(shape), s);
    for (int i = 0; i < count; i++)
        if (s->rows[i].kept) keep(shape, number, &s->rows[i], s);
    for (int i = 0; i < count; i++) {
        const Row *row = &s->rows[i];
        if (!shrinks) {
            attend_row(model, number, row, 0, row->count, s->mixed + (int64_t)row->start * queries, s);
            continue;
        }
        const int first = shape->pool == LAST ? row->count - 1 : 0;
        project(model, layer, row->start + first, 1, 0, queries, s);
        memmove(s->x + (int64_t)i * hidden, s->x + (int64_t)(row->start + first) * hidden, sizeof(float) * hidden);
        attend_row(model, number, row, first, 1, s->mixed + (int64_t)i * queries, s);
    }
    after_attention(model, layer, s->x, shrinks ? count : tokens, s);
}

/* Where embeddings of a group go: those that are widened lie in memory that the layers use later. */
static float *place_of_embeddings(const Model *model, const Scratch *s) { return model->widened.outputs ? s->qkv : s->x; }

/* Put a row's own tokens into the group: their embeddings, and cosines and sines of rotary positions. */
static void embed(const Model *model, const Row *row, const int64_t *ids, const int64_t *types, const Scratch *s) {
    const Shape *shape = &model->shape;
    const int width = shape->embedded, half = shape->dim / 2, before = row->before ? row->before->length : 0;
    int64_t next = shape->pad < 0 ? 0 : 1;
    for (int token = before; token < before + row->count; token++) {
        const int64_t id = ids[token], here = row->start + token - before;
        float *x = place_of_embeddings(model, s) + here * width;
        model->ops->unpack(model->words + id * width, model->word_scales[id], model->channels, width, x);
        if (!shape->rotaries) {
            const int64_t position = shape->pad >= 0 && id == shape->pad ? 0 : next++;
            const float *type = shape->types ? model->types + types[token] * width : NULL;
            model->ops->add(x, type, model->positions + position * width, width, x);
        }
        float *turn = s->turns + here * shape->rotaries * shape->dim;
        for (int kind = 0; kind < shape->rotaries; kind++, turn += shape->dim)
            for (int i = 0; i < half; i++) {
                const float angle = model->frequencies[kind * half + i] * (float)token;
                turn[i] = cosf(angle), turn[half + i] = sinf(angle);
            }
    }
}

/* Normalise and widen the embeddings of a group, where the model does so. */
static void finish_embeddings(const Model *model, int tokens, const Scratch *s) {
    const int width = model->shape.embedded, hidden = model->shape.hidden;
    float *x = place_of_embeddings(model, s);
    if (model->shape.normalises_words) normalise(model, &model->word_norm, x, tokens, width, x);
    if (!model->widened.outputs) return;
    for (int64_t done = 0, rows; done < tokens; done += rows) {
        rows = tokens - done < model->block_rows ? tokens - done : model->block_rows;
        const Quantised q = quantised(model, x + done * width, (int)rows, width, s);
        model->ops->multiply(&model->widened, 0, hidden, &q, (int)rows, s->x + done * hidden, hidden, NOTHING);
    }
}

static float activated(enum Activation activation, float x) {
    switch (activation) {
        case GELU: return 0.5f * x * (1 + erff(x * 0.70710678f));
        case GELU_TANH: return 0.5f * x * (1 + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
        case SILU: return x / (1 + expf(-x));
        case RELU: return x > 0 ? x : 0;
        case TANH: return tanhf(x);
        default: return x;
    }
}

/* The logit of a vector, in float32. */
static float score(const Model *model, const float *x, const Scratch *s) {
    const Shape *shape = &model->shape;
    const Head *head = &model->head;
    const int hidden = shape->hidden;
    if (head->dense) {
        for (int i = 0; i < hidden; i++)
            s->dense[i] = activated((enum Activation)shape->head_activation,
                                    model->ops->dot(head->dense + (int64_t)i * hidden, x, hidden) + head->dense_bias[i]);
        x = s->dense;
    }
    if (head->norm.gain) { /* which comes after a matrix only */
        model->ops->layer_norm(s->dense, NULL, 1, hidden, head->norm.gain, head->norm.shift, shape->epsilon);
    }
    return model->ops->dot(head->out, x, hidden) + head->out_bias[0];
}

/* Say what a row computes itself: all of it, or what comes after a prefix that is known. Nothing is shared where tokens see
 * those after them, where the outputs of others than the last count, or where a token is more than its id: types have tables.
 */
static Row begin_row(const Shape *shape, const Batch *b, int row, int start, Prefixes *prefixes) {
    Row made = {.start = start, .count = b->lengths[row]};
    const int length = b->prefixes[row];
    if (!shape->causal || !shape->rotaries || shape->pool != LAST || length == 0) return made;
    const int64_t values = (int64_t)shape->layers * length * 2 * width_of_keys(shape);
    int is_new;
    Prefix *prefix = find_prefix(prefixes, b->ids + (int64_t)row * b->length, length, values, &is_new);
    if (prefix && is_new)
        made.kept = prefix;
    else if (prefix)
        made.before = prefix, made.count -= length;
    return made;
}

/* Compute a batch, with room for its longest sequence. */
static void compute(const Model *model, Scratch *s, Prefixes *prefixes, const Batch *b) {
    const Shape *shape = &model->shape;
    const int hidden = shape->hidden;
    for (int from = 0, count; from < b->rows; from += count) {
        prefixes->now++;
        int tokens = 0;
        for (count = 0; from + count < b->rows && count < model->group_tokens; count++) {
            const int row = from + count;
            if (count > 0 && tokens + b->lengths[row] > model->group_tokens) break;
            const int64_t at = (int64_t)row * b->length;
            s->rows[count] = begin_row(shape, b, row, tokens, prefixes);
            embed(model, &s->rows[count], b->ids + at, b->types + at, s);
            tokens += s->rows[count].count;
        }
        finish_embeddings(model, tokens, s);
        for (int number = 0; number < shape->layers; number++) run_layer(model, number, count, s);
        if (shape->norms_first) normalise(model, &model->last_norm, s->x, shape->pool == MEAN ? tokens : count, hidden, s->x);
        for (int i = 0; i < count; i++) {
            const float *pooled = s->x + (int64_t)(shape->pool == MEAN ? s->rows[i].start : i) * hidden;
            if (shape->pool == MEAN) {
                model->ops->mean(pooled, s->rows[i].count, hidden, s->pooled);
                pooled = s->pooled;
            }
            if (shape->scores)
                b->out[from + i] = score(model, pooled, s);
            else
                memcpy(b->out + (int64_t)(from + i) * hidden, pooled, sizeof(float) * hidden);
        }
    }
}
