"""What a score is: one logit of a pair (cross_encoder), similarity of two vectors (embedding), or BM25 (lexical).

A new kind of model: copy `cross_encoder.py`, open it in `engine/loader.py`, tell it apart in `source.py`'s `kind_of`.
"""
