"""What a score is: one logit of a pair (cross_encoder), or the similarity of two vectors (embedding).

A new kind of model: copy `cross_encoder.py`, name its session in `SESSIONS` of `engine/loader.py` and its kind in
`Manifest` of `engine/artifact.py`, and recognize it in `kind_of` of `source.py`.
"""
