"""torch on a GPU: tokens of many sequences one after the other, nothing padded.

`batch` packs rows (numpy alone), `sizes` fills small batches up, `attention` is torch's flash attention, `graph` is the
model, `recorded` are passes of fixed sizes, `card` is the card and its memory, `device` is the runtime. All but
attention is the same code on a processor, where the tests compare it with transformers.
"""
