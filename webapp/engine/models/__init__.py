"""What a score is: one logit of a pair, the similarity of two vectors, or BM25."""
