"""The paths that load balancers probe, for routes, keys, access lines and nginx' configuration."""

from __future__ import annotations

LIVE = {
    "/health": "200 while the process answers",
    "/live": "as /health",
    "/ping": "as /health, for SageMaker and vLLM",
    "/v1/health": "as /health, for llama.cpp",
    "/v1/health/live": "as /health, for NIM",
    "/.well-known/live": "as /health, for Weaviate",
    "/infinity/health": "as /health, for Infinity's prefix",
}
"""Path -> what it answers."""

READY = {
    "/ready": "200 once a real score was made, 503 while loading or draining",
    "/v1/health/ready": "as /ready, for NIM",
    "/.well-known/ready": "as /ready, for Weaviate",
}
"""Path -> what it answers."""
