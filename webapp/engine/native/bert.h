/* A transformer encoder of BERT's family for one thread: token ids in, logits or mean vectors out.
 *
 * Sequences lie one after the other, so padding costs nothing. Matrix products are int8, everything between
 * them float32 (ops.h). Work goes through in groups of whole sequences and, between attention and attention, in blocks of rows
 * that stay in the second cache. The library has no state: weights belong to the caller (they are mapped from a file),
 * scratch to the calling thread. All that comes here was checked in border.c.
 */
#pragma once
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "border.h"
#include "dispatch.h"

#define GROUP_TOKENS 256 /* a group ends at this many tokens, or after one longer sequence */
#define BLOCK_ROWS 64    /* 64 rows of a 1,536-wide feed-forward layer take 400 KB in float32 */

typedef struct {
    Linear qkv, mix, up, down; /* qkv: queries (scaled), keys, values, one after the other */
    const float *mix_gain, *mix_shift, *down_gain, *down_shift;
} Layer;

struct BertModel {
    const Ops *ops;
    const float *words, *positions, *types, *gain, *shift; /* [vocabulary][hidden], [positions][hidden], [types][hidden] */
    const float *dense, *dense_bias, *out, *out_bias;      /* the classifier's; NULL: vectors are asked for */
    BertShape shape;
    Layer layers[]; /* [shape.layers] */
};

typedef struct {
    float *x, *qkv, *mixed, *wide, *narrow, *seen, *row_scales, *row_zeros;
    uint8_t *values;
    int starts[GROUP_TOKENS + 1]; /* first token of each sequence of the group, and the end */
    int room;                     /* tokens it is large enough for */
} Scratch;

static void empty(Scratch *s) {
    free(s->x), free(s->qkv), free(s->mixed), free(s->wide), free(s->narrow), free(s->seen);
    free(s->row_scales), free(s->row_zeros), free(s->values);
    memset(s, 0, sizeof *s);
}

static void *bytes(size_t count) { return aligned_alloc(64, (count + 127) / 64 * 64); }

/* Make room for sequences of this many tokens; 0 when there is no memory for them. */
static int make_room(const BertModel *model, int tokens, Scratch *s) {
    const BertShape *shape = &model->shape;
    if (tokens < GROUP_TOKENS) tokens = GROUP_TOKENS;
    if (tokens <= s->room) return 1;
    const size_t count = tokens, hidden = shape->hidden, dim = hidden / shape->heads;
    const size_t block = (size_t)BLOCK_ROWS * shape->wide;
    empty(s);
    s->x = bytes(4 * count * hidden);
    s->qkv = bytes(4 * count * 3 * hidden);
    s->mixed = bytes(4 * count * hidden);
    s->wide = bytes(4 * block);
    s->narrow = bytes(4 * BLOCK_ROWS * hidden);
    s->seen = bytes(4 * model->ops->seen_floats(dim, tokens));
    s->row_scales = bytes(4 * count);
    s->row_zeros = bytes(4 * count);
    s->values = bytes(count * hidden > block ? count * hidden : block);
    if (!(s->x && s->qkv && s->mixed && s->wide && s->narrow && s->seen && s->row_scales && s->row_zeros && s->values))
        return 0;
    s->room = tokens;
    return 1;
}

static Quantised quantised(const Scratch *s) { return (Quantised){s->values, s->row_scales, s->row_zeros}; }

/* What follows attention: its output layer and the feed-forward part. x, mixed: [rows][hidden]; x is replaced. */
static void after_attention(const BertModel *model, const Layer *layer, float *x, const float *mixed, int rows, const Scratch *s) {
    const Ops *ops = model->ops;
    const int hidden = layer->mix.outputs, wide = layer->up.outputs;
    const float epsilon = model->shape.epsilon;
    const Quantised q = quantised(s);
    for (int from = 0; from < rows; from += BLOCK_ROWS) {
        const int count = rows - from < BLOCK_ROWS ? rows - from : BLOCK_ROWS;
        float *block = x + (int64_t)from * hidden;
        ops->quantise(mixed + (int64_t)from * hidden, count, hidden, hidden, q);
        ops->multiply(&layer->mix, 0, hidden, &q, count, s->narrow, hidden, NOTHING);
        ops->layer_norm(block, s->narrow, count, hidden, layer->mix_gain, layer->mix_shift, epsilon);
        ops->quantise(block, count, hidden, hidden, q);
        ops->multiply(&layer->up, 0, wide, &q, count, s->wide, wide, GELU);
        ops->quantise(s->wide, count, wide, wide, q);
        ops->multiply(&layer->down, 0, hidden, &q, count, s->narrow, hidden, NOTHING);
        ops->layer_norm(block, s->narrow, count, hidden, layer->down_gain, layer->down_shift, epsilon);
    }
}

/* Attention of one sequence's first `asked` tokens. qkv: [length][3 * hidden]; out: [asked][hidden]. */
static void attend_row(const BertModel *model, const float *qkv, int length, int asked, float *out, const Scratch *s) {
    const int hidden = model->shape.hidden, stride = 3 * hidden, dim = hidden / model->shape.heads;
    for (int at = 0; at < hidden; at += dim) {
        const Seen seen = model->ops->see(s->seen, dim, length);
        model->ops->hold(&seen, qkv + hidden + at, qkv + 2 * hidden + at, stride, length, 0);
        model->ops->attend(&seen, qkv + at, stride, asked, length, 0, out + at, hidden);
    }
}

/* One layer over all tokens, or, `first_only`, over each sequence's first: x then shrinks to [rows][hidden]. */
static void run_layer(const BertModel *model, const Layer *layer, int rows, int first_only, const Scratch *s) {
    const Ops *ops = model->ops;
    const int hidden = model->shape.hidden, stride = 3 * hidden, tokens = s->starts[rows], from = first_only ? hidden : 0;
    const Quantised q = quantised(s);
    ops->quantise(s->x, tokens, hidden, hidden, q);
    ops->multiply(&layer->qkv, from, stride, &q, tokens, s->qkv + from, stride, NOTHING);
    if (first_only)
        for (int row = 0; row < rows; row++) {
            const int at = s->starts[row];
            const Quantised one = {q.values + (int64_t)at * hidden, q.scales + at, q.zeros + at};
            ops->multiply(&layer->qkv, 0, hidden, &one, 1, s->qkv + (int64_t)at * stride, stride, NOTHING);
            memmove(s->x + (int64_t)row * hidden, s->x + (int64_t)at * hidden, 4 * hidden);
        }
    for (int row = 0; row < rows; row++) {
        const int at = s->starts[row], length = s->starts[row + 1] - at;
        float *out = s->mixed + (int64_t)(first_only ? row : at) * hidden;
        attend_row(model, s->qkv + (int64_t)at * stride, length, first_only ? 1 : length, out, s);
    }
    after_attention(model, layer, s->x, s->mixed, first_only ? rows : tokens, s);
}

static void embed(const BertModel *model, const int64_t *ids, const int64_t *types, int count, float *x) {
    const int hidden = model->shape.hidden, pad = model->shape.pad;
    int64_t next = pad < 0 ? 0 : 1;
    for (int token = 0; token < count; token++, x += hidden) {
        const int64_t place = pad >= 0 && ids[token] == pad ? 0 : next++;
        const float *word = model->words + ids[token] * hidden, *position = model->positions + place * hidden;
        const float *type = model->types + types[token] * hidden;
        model->ops->add(word, type, position, hidden, x);
    }
}

/* out . tanh(dense . x + dense_bias) + out_bias, in float32: BERT's pooler and classifier, RoBERTa's head. */
static float classify(const BertModel *model, const float *x) {
    const int hidden = model->shape.hidden;
    float logit = model->out_bias[0];
    for (int i = 0; i < hidden; i++)
        logit += model->out[i] * tanhf(model->ops->dot(model->dense + (int64_t)i * hidden, x, hidden) + model->dense_bias[i]);
    return logit;
}

/* Compute a batch, with room for its longest sequence. */
static void compute(const BertModel *model, Scratch *s, const BertBatch *b) {
    const int hidden = model->shape.hidden, logits = model->shape.classifies;
    for (int from = 0, count; from < b->rows; from += count) {
        for (count = 0; from + count < b->rows && count < GROUP_TOKENS; count++) {
            const int row = from + count, end = s->starts[count] + b->lengths[row];
            if (count > 0 && end > GROUP_TOKENS) break;
            const int64_t at = (int64_t)row * b->length;
            embed(model, b->ids + at, b->types + at, b->lengths[row], s->x + (int64_t)s->starts[count] * hidden);
            s->starts[count + 1] = end; /* starts[0] is always 0 */
        }
        model->ops->layer_norm(s->x, NULL, s->starts[count], hidden, model->gain, model->shift, model->shape.epsilon);
        for (int i = 0; i < model->shape.layers; i++)
            run_layer(model, &model->layers[i], count, logits && i == model->shape.layers - 1, s);
        for (int row = 0; row < count; row++)
            if (logits)
                b->out[from + row] = classify(model, s->x + (int64_t)row * hidden);
            else
                model->ops->mean(s->x + (int64_t)s->starts[row] * hidden, s->starts[row + 1] - s->starts[row], hidden,
                                 b->out + (int64_t)(from + row) * hidden);
    }
}
