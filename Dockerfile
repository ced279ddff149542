# The service in one image: nginx, gunicorn, pusher and supervisor, a model that is prepared, and no torch.
# docs/install.md says how to build and run it; scripts/test-image does both, without Docker.

# Debian or Ubuntu with Python 3.11 or newer; both stages have the same, for one runs what the other has compiled.
ARG BASE=python:3.13-slim

FROM ${BASE} AS prepare
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
# By the base's own Python, at the place where the next stage has it. OpenVINO's plugins for GPUs and NPUs and what reads
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

FROM ${BASE}
LABEL org.opencontainers.image.title="reranking" \
    org.opencontainers.image.description="A self-hosted reranking service" \
    org.opencontainers.image.version="0.2.0" \
    org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update && apt-get install -y --no-install-recommends nginx libnginx-mod-stream \
    && apt-get clean && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/www/html
# Not root, and a number, so that Kubernetes sees that it isn't (runAsNonRoot).
RUN useradd --system --uid 10001 --home-dir /var/lib/reranking reranking
COPY --from=prepare /opt/reranking /opt/reranking
COPY --from=prepare --chown=10001:10001 /var/lib/reranking /var/lib/reranking
# It writes below its state directory and nowhere else; with a read-only root that is elsewhere (deploy/kubernetes/).
RUN chown 10001:10001 /var/lib/reranking && chmod 0700 /var/lib/reranking
ENV PATH=/opt/reranking/bin:$PATH \
    RERANK_CONFIG=/opt/reranking/reranking.yaml \
    RERANK_STATE_DIR=/var/lib/reranking \
    RERANK_HOST=0.0.0.0 \
    RERANK_LOG_TO=stdout \
    RERANK_LOG_FORMAT=json \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/reranking
EXPOSE 8080
# TERM finishes what was admitted. It ends with 0 then, and with 1 when supervisor gave a program up.
STOPSIGNAL SIGTERM
# By its own key, port and certificate, whatever they are set to.
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import reranking_server; from webapp.stack.local_client import ask; from webapp.config.settings import load_settings; ask(load_settings(), '/ready', timeout_s=5)"]
CMD ["reranking", "serve"]
