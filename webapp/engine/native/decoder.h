/* A transformer decoder of Qwen's, Llama's and Gemma's kind for one thread: token ids in, a logit out.
 *
 * RMS norms, rotary positions, heads of queries that share keys and values, a gated feed-forward part. As in bert.h
 * sequences lie one after the other, matrix products are int8, everything between them is float32.
 *
 * Rows that begin alike share the keys and values of their beginning (prefixes.h). The first of them computes all its
 * tokens and keeps those; the others compute only what comes after. Each token's numbers are made in the same way and
 * order in either case, so scores are equal to the bit.
 */
#pragma once
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "border.h"
#include "dispatch.h"
#include "prefixes.h"

#define GROUP_TOKENS 1024 /* a group ends at this many tokens, or after one longer sequence: it reads all weights once */
#define BLOCK_ROWS 128    /* rows that go through the feed-forward part together */

typedef struct {
    Linear qkv, mix, gate, up, down; /* qkv: queries (scaled), keys, values, one after the other */
    const float *mix_gain, *wide_gain; /* of the norms before attention and before the feed-forward part */
    const float *query_gain, *key_gain; /* NULL: heads are not normalised */
} Layer;

struct DecoderModel {
    const Ops *ops;
    const uint16_t *words;     /* bfloat16 [vocabulary][hidden] */
    const float *frequencies;  /* [dim / 2]: of rotary positions, radians a token */
    const float *gain, *head;  /* [hidden]: of the last norm; what makes a logit of its output */
    DecoderShape shape;
    Layer layers[]; /* [shape.layers] */
};

typedef struct {
    const Prefix *before; /* tokens that it sees before its own; NULL: none */
    Prefix *kept;         /* takes keys and values of its first tokens; NULL: none does */
    int start, count;     /* its own tokens: place in the group, number */
    int row;              /* of the batch */
} Row;

typedef struct {
    float *x, *qkv, *mixed, *turns;          /* of the group's tokens */
    float *normal, *wide;                    /* of a block of rows */
    float *row_scales, *row_zeros;
    uint8_t *values;
    float *seen;                             /* keys and values of one sequence and head */
    Row *rows;
    int room, length; /* tokens of a group, and of a sequence, that it is large enough for */
} Scratch;

static int width_of_queries(const DecoderShape *shape) { return shape->heads * shape->dim; }
static int width_of_keys(const DecoderShape *shape) { return shape->kv_heads * shape->dim; }
static int width_of_qkv(const DecoderShape *shape) { return width_of_queries(shape) + 2 * width_of_keys(shape); }

static void empty(Scratch *s) {
    free(s->x), free(s->qkv), free(s->mixed), free(s->turns), free(s->normal), free(s->wide), free(s->row_scales);
    free(s->row_zeros), free(s->values), free(s->seen), free(s->rows);
    memset(s, 0, sizeof *s);
}

static void *bytes(size_t count) { return aligned_alloc(64, (count + 127) / 64 * 64); }

/* Make room for sequences of this many tokens; 0 when there is no memory for them. */
static int make_room(const DecoderModel *model, int length, Scratch *s) {
    const DecoderShape *shape = &model->shape;
    if (length <= s->length) return 1;
    const size_t hidden = shape->hidden, wide = shape->wide, queries = width_of_queries(shape), dim = shape->dim;
    const size_t tokens = length < GROUP_TOKENS ? GROUP_TOKENS : length;
    const size_t widest = wide > hidden ? (wide > queries ? wide : queries) : (hidden > queries ? hidden : queries);
    const size_t groups = groups_of(widest, shape->group);
    empty(s);
    s->x = bytes(4 * tokens * hidden);
    s->qkv = bytes(4 * tokens * width_of_qkv(shape));
    s->mixed = bytes(4 * tokens * queries);
    s->turns = bytes(4 * tokens * dim);
    s->normal = bytes(4 * BLOCK_ROWS * hidden);
    s->wide = bytes(4 * BLOCK_ROWS * wide);
    s->row_scales = bytes(4 * BLOCK_ROWS * groups);
    s->row_zeros = bytes(4 * BLOCK_ROWS * groups);
    s->values = bytes(BLOCK_ROWS * widest);
    s->seen = bytes(4 * model->ops->seen_floats(dim, length));
    s->rows = bytes(GROUP_TOKENS * sizeof(Row));
    if (!(s->x && s->qkv && s->mixed && s->turns && s->normal && s->wide && s->row_scales && s->row_zeros && s->values
          && s->seen && s->rows))
        return 0;
    s->room = tokens, s->length = length;
    return 1;
}

/* Quantise some rows. */
static Quantised quantised(const DecoderModel *model, const float *x, int rows, int width, const Scratch *s) {
    const Quantised q = {s->values, s->row_scales, s->row_zeros};
    model->ops->quantise(x, rows, width, model->shape.group, q);
    return q;
}

/* The same of their norms. */
static Quantised normalised(const DecoderModel *model, const float *x, int rows, const float *gain, const Scratch *s) {
    model->ops->rms_norm(x, rows, model->shape.hidden, gain, model->shape.epsilon, s->normal);
    return quantised(model, s->normal, rows, model->shape.hidden, s);
}

/* Normalise a head of queries or keys, where the model does, and turn it to its position. */
static void place(const DecoderModel *model, float *head, const float *gain, const float *turn) {
    if (gain) model->ops->rms_norm(head, 1, model->shape.dim, gain, model->shape.epsilon, head);
    model->ops->rotate(head, model->shape.dim, turn);
}

/* Outputs [from, to) of queries, keys and values for tokens [first, first + count) of the group, heads placed. */
static void project(const DecoderModel *model, const Layer *layer, int first, int count, int from, int to, const Scratch *s) {
    const DecoderShape *shape = &model->shape;
    const int stride = width_of_qkv(shape), dim = shape->dim, queries = width_of_queries(shape);
    const int placed = to < queries + width_of_keys(shape) ? to : queries + width_of_keys(shape);
    for (int done = 0, rows; done < count; done += rows) {
        rows = count - done < BLOCK_ROWS ? count - done : BLOCK_ROWS;
        const int64_t token = first + done;
        const Quantised q = normalised(model, s->x + token * shape->hidden, rows, layer->mix_gain, s);
        model->ops->multiply(&layer->qkv, from, to, &q, rows, s->qkv + token * stride + from, stride, NOTHING);
        for (int row = 0; row < rows; row++)
            for (int at = from; at < placed; at += dim)
                place(model, s->qkv + (token + row) * stride + at, at < queries ? layer->query_gain : layer->key_gain,
                      s->turns + (token + row) * dim);
    }
}

/* Keep keys and values of a row's first tokens. */
static void keep(const DecoderShape *shape, int number, const Row *row, const Scratch *s) {
    const int stride = width_of_qkv(shape), width = 2 * width_of_keys(shape), length = row->kept->length;
    float *to = row->kept->values + (int64_t)number * length * width;
    const float *from = s->qkv + (int64_t)row->start * stride + width_of_queries(shape);
    for (int token = 0; token < length; token++)
        memcpy(to + (int64_t)token * width, from + (int64_t)token * stride, width * sizeof(float));
}

/* Attention of a row's last `asked` tokens; out: [asked][queries]. */
static void attend_row(const DecoderModel *model, int number, const Row *row, int asked, float *out, const Scratch *s) {
    const DecoderShape *shape = &model->shape;
    const int dim = shape->dim, queries = width_of_queries(shape), keys = width_of_keys(shape), stride = width_of_qkv(shape);
    const int before = row->before ? row->before->length : 0, length = before + row->count;
    const int first = row->count - asked, shared_by = shape->heads / shape->kv_heads;
    const int sees = shape->causal ? before + first + 1 : length;
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
            model->ops->attend(&seen, own + (int64_t)first * stride + head * dim, stride, asked, sees, shape->causal,
                               out + head * dim, queries);
    }
}

/* What follows attention: its output layer and the feed-forward part. x: [rows][hidden]; what they give is added to it. */
static void after_attention(const DecoderModel *model, const Layer *layer, float *x, int rows, const Scratch *s) {
    const DecoderShape *shape = &model->shape;
    const Ops *ops = model->ops;
    const int hidden = shape->hidden, wide = shape->wide, queries = width_of_queries(shape);
    for (int from = 0; from < rows; from += BLOCK_ROWS) {
        const int count = rows - from < BLOCK_ROWS ? rows - from : BLOCK_ROWS;
        float *block = x + (int64_t)from * hidden;
        Quantised q = quantised(model, s->mixed + (int64_t)from * queries, count, queries, s);
        ops->multiply(&layer->mix, 0, hidden, &q, count, block, hidden, PLUS);
        q = normalised(model, block, count, layer->wide_gain, s);
        ops->multiply(&layer->gate, 0, wide, &q, count, s->wide, wide, shape->gelu ? GELU_TANH : SILU);
        ops->multiply(&layer->up, 0, wide, &q, count, s->wide, wide, TIMES);
        q = quantised(model, s->wide, count, wide, s);
        ops->multiply(&layer->down, 0, hidden, &q, count, block, hidden, PLUS);
    }
}

/* One layer over all tokens of a group. Of the last one only what is scored is needed: where that is each row's last token,
 * x shrinks to [count][hidden].
 */
static void run_layer(const DecoderModel *model, int number, int count, const Scratch *s) {
    const DecoderShape *shape = &model->shape;
    const Layer *layer = &model->layers[number];
    const int hidden = shape->hidden, queries = width_of_queries(shape), last = number == shape->layers - 1 && !shape->mean;
    const int tokens = s->rows[count - 1].start + s->rows[count - 1].count;
    project(model, layer, 0, tokens, last ? queries : 0, width_of_qkv(shape), s);
    for (int i = 0; i < count; i++)
        if (s->rows[i].kept) keep(shape, number, &s->rows[i], s);
    for (int i = 0; i < count; i++) {
        const Row *row = &s->rows[i];
        const int end = row->start + row->count - 1;
        if (last) {
            project(model, layer, end, 1, 0, queries, s);
            memmove(s->x + (int64_t)i * hidden, s->x + (int64_t)end * hidden, hidden * sizeof(float));
        }
        attend_row(model, number, row, last ? 1 : row->count, s->mixed + (int64_t)(last ? i : row->start) * queries, s);
    }
    after_attention(model, layer, s->x, last ? count : tokens, s);
}

/* Put a row's own tokens into the group: their embeddings, and cosines and sines of their positions. */
static void embed(const DecoderModel *model, const Row *row, const int64_t *ids, const Scratch *s) {
    const int hidden = model->shape.hidden, dim = model->shape.dim, before = row->before ? row->before->length : 0;
    for (int token = 0; token < row->count; token++) {
        const uint16_t *word = model->words + ids[before + token] * hidden;
        float *x = s->x + (int64_t)(row->start + token) * hidden, *turn = s->turns + (int64_t)(row->start + token) * dim;
        model->ops->widen(word, hidden, x);
        for (int i = 0; i < dim / 2; i++) {
            const float angle = model->frequencies[i] * (float)(before + token);
            turn[i] = cosf(angle), turn[dim / 2 + i] = sinf(angle);
        }
    }
}

/* The mean logit of some tokens. */
static float score(const DecoderModel *model, const float *x, int tokens, const Scratch *s) {
    const int hidden = model->shape.hidden;
    float sum = 0;
    for (int token = 0; token < tokens; token++) {
        model->ops->rms_norm(x + (int64_t)token * hidden, 1, hidden, model->gain, model->shape.epsilon, s->normal);
        sum += model->ops->dot(s->normal, model->head, hidden);
    }
    return sum / (float)tokens;
}

/* Say what a row computes itself: all of it, or what comes after a prefix that is known. Nothing is shared where tokens see
 * those after them, or where the outputs of all count.
 */
static Row begin_row(const DecoderShape *shape, const DecoderBatch *b, int row, int start, Prefixes *prefixes) {
    Row made = {.start = start, .count = b->lengths[row], .row = row};
    const int length = b->prefixes[row];
    if (!shape->causal || shape->mean || length == 0) return made;
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
static void compute(const DecoderModel *model, Scratch *s, Prefixes *prefixes, const DecoderBatch *b) {
    const DecoderShape *shape = &model->shape;
    for (int from = 0, count; from < b->rows; from += count) {
        prefixes->now++;
        int tokens = 0;
        for (count = 0; from + count < b->rows && count < GROUP_TOKENS; count++) {
            const int row = from + count;
            if (count > 0 && tokens + b->lengths[row] > GROUP_TOKENS) break;
            s->rows[count] = begin_row(shape, b, row, tokens, prefixes);
            embed(model, &s->rows[count], b->ids + (int64_t)row * b->length, s);
            tokens += s->rows[count].count;
        }
        for (int number = 0; number < shape->layers; number++) run_layer(model, number, count, s);
        for (int i = 0; i < count; i++) {
            const Row *row = &s->rows[i];
            const int64_t at = shape->mean ? row->start : i;
            b->out[row->row] = score(model, s->x + at * shape->hidden, shape->mean ? row->count : 1, s);
        }
    }
}
