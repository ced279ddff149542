/* What callers of the kernels see. Everything that comes in is checked in border.c, once, and by nothing below it. */
#pragma once
#include <stdint.h>

#define BERT_BORDER 1 /* raised when anything in this file changes; runtimes/native.py has the same number */

typedef enum {
    BERT_OK,
    BERT_NO_MEMORY,
    BERT_OTHER_BORDER, /* the caller was written for another version of this file */
    BERT_BAD_SHAPE,    /* a model that the kernels can't compute */
    BERT_BAD_TENSOR,   /* a tensor that is missing, misaligned or not as large as the shape says */
    BERT_BAD_BATCH,    /* buffers that are missing or not as large as rows and length say */
    BERT_BAD_LENGTH,   /* a row of no tokens, or of more than its buffer or the model has room for */
    BERT_BAD_ID,       /* a token id that is not in the table */
    BERT_BAD_TYPE,     /* a token type that is not in the table */
} BertStatus;

typedef struct {
    int32_t border;                       /* BERT_BORDER, as the caller knows it */
    int32_t vocabulary, positions, types; /* rows of the embedding tables */
    int32_t hidden, heads, wide, layers;  /* wide: of the feed-forward part */
    int32_t classifies;                   /* 1: a logit for each row; 0: the mean vector of its tokens */
    float epsilon;
} BertShape;

typedef struct {
    const void *at;
    int64_t bytes;
} BertTensor;

typedef struct {
    int32_t rows, length;
    const int64_t *ids, *types; /* [rows][length] */
    const int32_t *lengths;     /* [rows]: tokens of each row; what lies past them is not read */
    float *out;                 /* [rows], or [rows][hidden] where the model doesn't classify */
    int64_t id_count, type_count, length_count, out_count; /* numbers that each buffer holds */
} BertBatch;

typedef struct BertModel BertModel;
typedef struct BertScratch BertScratch;

/* Each of these returns a BertStatus.
 *
 * bert_load: the tensors stay the caller's, and must stay where they are until bert_unload. They come in this order (float
 * unless it says int8): words, positions, types, gain, shift; for each layer and each of qkv, mix, up, down: weights (int8),
 * scales, sums, bias; then mix_gain, mix_shift, down_gain, down_shift; at the end, where the model classifies: dense,
 * dense_bias, out, out_bias. linear.h and bert.h say how they are laid out.
 * bert_open: scratch for one thread; close it before the model is unloaded.
 * bert_forward: nothing is computed unless all of the batch is right.
 */
int bert_load(const BertShape *shape, const BertTensor *tensors, int64_t count, BertModel **model);
int bert_open(const BertModel *model, BertScratch **scratch);
int bert_forward(BertScratch *scratch, const BertBatch *batch);

void bert_close(BertScratch *scratch);
void bert_unload(BertModel *model);
