/* What callers of the kernels see. Everything that comes in is checked in border.c and decoder.c, once, and by nothing
 * below them.
 */
#pragma once
#include <stdint.h>

#define BORDER 4 /* raised when anything in this file changes; runtimes/native.py has the same number */

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

typedef struct {
    int32_t border;                       /* BORDER, as the caller knows it */
    int32_t vocabulary, positions, types; /* rows of the embedding tables; positions: tokens that a row may have */
    int32_t hidden, heads, wide, layers;  /* wide: of the feed-forward part */
    int32_t classifies;                   /* 1: a logit for each row; 0: the mean vector of its tokens */
    int32_t pad;                          /* -1, or an id that is not counted: it has the first row of positions, which
                                           * then has one more; RoBERTa's padding, whose name a text may hold */
    float epsilon;
} BertShape;

typedef struct {
    int32_t rows, length;
    const int64_t *ids, *types; /* [rows][length] */
    const int32_t *lengths;     /* [rows]: tokens of each row; what lies past them is not read */
    float *out;                 /* [rows], or [rows][hidden] where the model doesn't classify */
    int64_t id_count, type_count, length_count, out_count; /* numbers that each buffer holds */
} BertBatch;

typedef struct BertModel BertModel;
typedef struct BertScratch BertScratch;

/* The name of an instruction set that this library has and this processor can run, the best one first; NULL past the last. */
const char *instruction_set(int number);

/* Each of these returns a Status.
 *
 * bert_load: the tensors stay the caller's, and must stay where they are until bert_unload. They come in this order (float
 * unless it says int8): words, positions, types, gain, shift; for each layer and each of qkv, mix, up, down: weights (int8),
 * scales, sums, bias; then mix_gain, mix_shift, down_gain, down_shift; at the end, where the model classifies: dense,
 * dense_bias, out, out_bias. ops.h and bert.h say how they are laid out. instructions: the name of a set; NULL: the best one.
 * bert_open: scratch for one thread; close it before the model is unloaded.
 * bert_forward: nothing is computed unless all of the batch is right.
 */
int bert_load(const BertShape *shape, const Tensor *tensors, int64_t count, const char *instructions, BertModel **model);
int bert_open(const BertModel *model, BertScratch **scratch);
int bert_forward(BertScratch *scratch, const BertBatch *batch);

void bert_close(BertScratch *scratch);
void bert_unload(BertModel *model);

typedef struct {
    int32_t border;                      /* BORDER, as the caller knows it */
    int32_t vocabulary, positions;       /* rows of the embedding table; tokens that a row may have */
    int32_t hidden, wide, layers;        /* wide: of the feed-forward part */
    int32_t heads, kv_heads, dim;        /* kv_heads: of keys and values, which several heads of queries may share */
    int32_t group;                       /* inputs of a matrix that share a scale */
    int32_t normalises_heads;            /* 1: queries and keys are normalised, each head by itself */
    int32_t gelu;                        /* 1: the gate's activation is GELU by tanh; 0: SiLU */
    int32_t causal;                      /* 1: a token sees none that come after it; 0: it sees all */
    int32_t mean;                        /* 1: all tokens' outputs are scored, and the mean counts; 0: the last one's */
    float epsilon;
} DecoderShape;

typedef struct {
    int32_t rows, length;
    const int64_t *ids;      /* [rows][length] */
    const int32_t *lengths;  /* [rows]: tokens of each row; what lies past them is not read */
    const int32_t *prefixes; /* [rows]: tokens at a row's start that other rows may begin with, too; fewer than its length */
    float *out;              /* [rows] */
    int64_t id_count, length_count, prefix_count, out_count; /* numbers that each buffer holds */
} DecoderBatch;

typedef struct DecoderModel DecoderModel;
typedef struct DecoderScratch DecoderScratch;

/* The same for decoders.
 *
 * decoder_load: the order is words (bfloat16), frequencies, gain, head; for each layer and each of qkv, mix, gate, up, down:
 * weights (int8), scales, sums, bias; then mix_gain, wide_gain and, where heads are normalised, query_gain, key_gain.
 * decoder_open: keeps keys and values of prefixes, of at most so many bytes, for rows that begin alike, in any batch.
 * decoder_kept: the bytes that they take now.
 */
int decoder_load(const DecoderShape *shape, const Tensor *tensors, int64_t count, const char *instructions, DecoderModel **model);
int decoder_open(const DecoderModel *model, int64_t prefix_bytes, DecoderScratch **scratch);
int decoder_forward(DecoderScratch *scratch, const DecoderBatch *batch);
int64_t decoder_kept(const DecoderScratch *scratch);

void decoder_close(DecoderScratch *scratch);
void decoder_unload(DecoderModel *model);
