/* What callers of the kernels see. Everything that comes in is checked in border.c, once, and by nothing below it. */
#pragma once
#include <stdint.h>

#define BORDER 5 /* raised when anything in this file changes; runtimes/packed.py has the same number */

typedef enum {
    STATUS_OK,
    STATUS_NO_MEMORY,
    STATUS_OTHER_BORDER, /* the caller was written for another version of this file */
    STATUS_BAD_SHAPE,    /* a model that the kernels can't compute */
    STATUS_BAD_TENSOR,   /* a tensor that is missing, misaligned or not as large as the shape says */
    STATUS_BAD_BATCH,    /* buffers that are missing or not as large as rows and length say */
    STATUS_BAD_LENGTH,   /* a row of no tokens, or of more than its buffer or the model has room for */
    STATUS_BAD_ID,       /* a token id that is not in the table */
    STATUS_BAD_TYPE,     /* a token type that is not in the table */
    STATUS_BAD_INSTRUCTIONS, /* an instruction set that this processor or this library lacks */
} Status;

typedef struct {
    const void *at;
    int64_t bytes;
} Tensor;

/* Functions between matrices. */
enum Activation { IDENTITY, GELU, GELU_TANH, SILU, RELU, TANH, ACTIVATIONS };

/* Which token's output is read, or the mean of all. */
enum Pool { FIRST, LAST, MEAN, POOLS };

/* A transformer: an encoder of BERT's or ModernBERT's kind, a decoder of Qwen's, Llama's or Gemma's. */
typedef struct {
    int32_t border;                /* BORDER, as the caller knows it */
    int32_t vocabulary, positions; /* rows of the table of words; tokens that a row may have */
    int32_t types;                 /* rows of the table of token types; 0: there is none */
    int32_t pad;                   /* -1, or an id that is not counted: it has the first row of the table of positions, which
                                    * then has one more; RoBERTa's padding, whose name a text may hold */
    int32_t rotaries;              /* kinds of rotary positions, 0 to 2; with none there is a table of positions */
    int32_t embedded;              /* width of those tables, `hidden` or less: then a matrix makes `hidden` of it */
    int32_t hidden, wide, layers;  /* wide: of the feed-forward part */
    int32_t heads, kv_heads, dim;  /* kv_heads: of keys and values, which several heads of queries may share; dim: of a head */
    int32_t group;                 /* inputs of a matrix that share a scale */
    int32_t causal;                /* 1: a token sees none that come after it */
    int32_t window;                /* tokens on either side that a token sees in local layers; 0: there are none of those */
    int32_t global_every;          /* with local layers: every such layer, the first one too, is not; local layers have the
                                    * second kind of rotary positions */
    int32_t norms_first;           /* 1: each part of a layer normalises what it reads; 0: what it has added to */
    int32_t rms;                   /* 1: norms divide by the root of the mean square; 0: they are layer norms, with shifts */
    int32_t normalises_words;      /* 1: embeddings are normalised, so with norms_first the first layer's attention does not */
    int32_t normalises_heads;      /* 1: queries and keys are normalised, each head by itself */
    int32_t gated;                 /* 1: the feed-forward part's first product is multiplied by a second one */
    int32_t activation;            /* of the feed-forward part; Activation, but for TANH */
    int32_t pool;                  /* Pool */
    int32_t scores;                /* 1: a logit for each row; 0: what was pooled, a vector */
    int32_t head_dense;            /* 1: a matrix comes before the row of weights that makes a logit */
    int32_t head_activation;       /* Activation that follows that matrix */
    int32_t head_norm;             /* 1: a layer norm follows that */
    float epsilon;                 /* of norms */
} Shape;

typedef struct {
    int32_t rows, length;
    const int64_t *ids, *types; /* [rows][length]; types are not read where the model has none */
    const int32_t *lengths;     /* [rows]: tokens of each row; what lies past them is not read */
    const int32_t *prefixes;    /* [rows]: tokens at a row's start that other rows may begin with, too; fewer than its length */
    float *out;                 /* [rows], or [rows][hidden] where the model gives vectors */
    int64_t id_count, type_count, length_count, prefix_count, out_count; /* numbers that each buffer holds */
} Batch;

typedef struct Model Model;
typedef struct Pass Pass;

/* The name of an instruction set that this library has and this processor can run, the best one first; NULL past the last. */
const char *instruction_set(int number);

/* Each of the next three returns a Status.
 *
 * model_load: the tensors stay the caller's, and must stay where they are until model_unload. `instructions` is the name of a
 * set; NULL: the best one. Tensors come in this order, float unless it says int8; ops.h says how matrices lie:
 *   words (int8), a scale for each, and for each of their channels [embedded]: a number is int8 x scale x channel
 *   frequencies [rotaries][dim / 2], radians a token; or, without rotary positions, the table of positions
 *   the table of types, where there is one
 *   gain, shift of the embeddings' norm, where they are normalised; shift here and below not with `rms`
 *   where `embedded` is less than `hidden`, a matrix: weights (int8), scales, sums, bias
 *   for each layer:
 *     of qkv (queries, which come scaled, keys, values), mix, gate where it is gated, up, down: such a matrix
 *     mix_gain, mix_shift of attention's norm, where it has one; wide_gain, wide_shift of the feed-forward part's
 *     query_gain, key_gain, where heads are normalised
 *   gain, shift of the last norm, with `norms_first`
 *   where the model scores: dense, dense_bias, with `head_dense`; head_gain, head_shift, with `head_norm`; out, out_bias
 *
 * pass_open: what one thread computes with; close it before the model is unloaded. It keeps keys and values of prefixes, of at
 * most so many bytes, for rows that begin alike, in any batch.
 *
 * pass_forward: nothing is computed unless all of the batch is right.
 */
int model_load(const Shape *shape, const Tensor *tensors, int64_t count, const char *instructions, Model **model);
int pass_open(const Model *model, int64_t prefix_bytes, Pass **pass);
int pass_forward(Pass *pass, const Batch *batch);

/* Bytes that keys and values of prefixes take now. */
int64_t pass_kept(const Pass *pass);

void pass_close(Pass *pass);
void model_unload(Model *model);
