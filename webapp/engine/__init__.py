"""Turns pairs into logits. Knows no Flask and no scheduling."""

import sys

# OpenVINO reports every import to its maker unless this package is missing. We call home for nobody.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
