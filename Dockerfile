# The serving half as an image: what answers requests, nothing that trains.
#   docker build -t gradientspace:cpu .
#   docker build -t gradientspace:cuda --build-arg VARIANT=cuda .
# How it is run, and what of this was tried where: docs/deploy.md.

# Tag for people, digest for the builder. A newer one: docker buildx imagetools inspect python:3.11-slim-bookworm
ARG PYTHON_IMAGE=python:3.11.16-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b
# cpu or cuda
ARG VARIANT=cpu

FROM ${PYTHON_IMAGE} AS build
ARG VARIANT
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python3.11 -m venv /opt/gradientspace
COPY requirements/ requirements/
RUN /opt/gradientspace/bin/pip install --no-deps --only-binary :all: --require-hashes \
        -r "requirements/serve-$VARIANT.lock"
# A machine that knows a CPU wheel of torch finds it by itself; anywhere else PyTorch's own index is asked.
# The hash is the same for both. The CUDA build is on PyPI, and so in the lock above.
RUN [ "$VARIANT" = cuda ] \
    || /opt/gradientspace/bin/pip install --no-deps --require-hashes -r requirements/torch-cpu.lock \
    || /opt/gradientspace/bin/pip install --no-deps --require-hashes -r requirements/torch-cpu.lock \
        --index-url https://download.pytorch.org/whl/cpu
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY bundle/ bundle/
COPY router/ router/
COPY service/ service/
COPY cli/ cli/
COPY gradientspace/ gradientspace/
COPY deploy/wheel/ deploy/wheel/
RUN /opt/gradientspace/bin/pip install --no-deps --no-build-isolation . \
    && /opt/gradientspace/bin/pip uninstall --yes pip
# Triton, which runs the LoRA kernels, compiles one C module when it first meets a GPU: here, so that no later stage
# needs a compiler. No version, as below.
COPY deploy/triton_module/ deploy/triton_module/
# hadolint ignore=DL3008
RUN [ "$VARIANT" = cpu ] \
    || { apt-get update \
        && apt-get install --yes --no-install-recommends gcc libc6-dev \
        && /opt/gradientspace/bin/python -m deploy.triton_module.build /opt/gradientspace/triton \
        && install --mode 755 deploy/triton_module/cc.py /opt/gradientspace/triton/cc.py; }

FROM ${PYTHON_IMAGE} AS service-cpu
# No version here or below: Debian keeps one per release, and an older one can't be had.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libnuma1 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
# vLLM compiles some small functions on first use, with a C++ compiler that is not in here; eager they do the same.
ENV TORCHDYNAMO_DISABLE=1

FROM ${PYTHON_IMAGE} AS service-cuda
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libnuma1 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
# What Triton calls as its compiler hands it the module that the first stage compiled.
# FlashInfer's sampler would be compiled on first use, by nvcc and a C++ compiler; torch's needs neither.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    CC=/opt/gradientspace/triton/cc.py \
    VLLM_USE_FLASHINFER_SAMPLER=0

# One of the two stages above.
# hadolint ignore=DL3006
FROM service-${VARIANT}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="GradientSpace" \
      org.opencontainers.image.description="One base model, K LoRA experts and their router behind one OpenAI-compatible endpoint" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The root file system may be read-only. What has to be writable is /tmp, and /cache: a folder or volume for the
# base models that are fetched from a hub, and for what the engine compiles.
RUN groupadd --gid 10001 gradientspace \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /cache --shell /usr/sbin/nologin gradientspace \
    && install --directory --owner 10001 --group 10001 /cache
COPY --from=build /opt/gradientspace /opt/gradientspace
ENV PATH=/opt/gradientspace/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/cache \
    XDG_CACHE_HOME=/cache \
    HF_HOME=/cache/huggingface \
    VLLM_CACHE_ROOT=/cache/vllm \
    TORCHINDUCTOR_CACHE_DIR=/cache/torchinductor \
    TRITON_CACHE_DIR=/cache/triton \
    GRADIENTSPACE_BUNDLE=/bundle \
    GRADIENTSPACE_HOST=0.0.0.0 \
    GRADIENTSPACE_PORT=8000
WORKDIR /
USER 10001:10001
EXPOSE 8000
# Loading a large base takes minutes; until then a failing check does not count.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-I", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['GRADIENTSPACE_PORT']), timeout=4); c.request('GET', '/health/ready'); sys.exit(c.getresponse().status != 200)"]
# Process 1 is the service itself: it handles SIGTERM, and ends when its engine does.
ENTRYPOINT ["gradientspace", "serve"]
