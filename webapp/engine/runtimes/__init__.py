"""What computes a forward pass: native (our C kernels), openvino, torch, and stub, an engine without a model.

A new runtime: copy `openvino.py`; add its name to `EngineName` in `artifact.py` and to the setting `engine`; open it in
`loader.py` (`_open_runtime`), write its files in `prepare/build.py`, and say in `prepare/candidates.py` when to try it.
"""
