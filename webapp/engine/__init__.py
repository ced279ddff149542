"""Text pairs to logits. Knows no Flask and no scheduling; only `models/source`, `runtimes` and `prepare` load tensors.

To add a model family or a runtime, read `models/__init__` or `runtimes/__init__`.
"""

import sys

# OpenVINO reports every import to its maker unless this package is missing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
