# syntax=docker/dockerfile:1
# Targets: `service` (no vLLM: for OUTTHINK_ENGINE_URL), `cpu` and `cuda` (vLLM and the demo model inside).
#   docker build --target service --tag outthink .

FROM python:3.11-slim-bookworm AS base
ENV PATH=/opt/outthink/bin:$PATH PYTHONUNBUFFERED=1

FROM base AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_DEPS=1
COPY requirements /src/requirements
RUN python -m venv /opt/outthink && pip install -r /src/requirements/build.txt

FROM build AS build-service
RUN pip install -r /src/requirements/service.txt
COPY . /src
RUN pip install --no-build-isolation /src

FROM build AS build-cpu
RUN pip install --index-url https://download.pytorch.org/whl/cpu "$(grep ^torch== /src/requirements/cpu.txt)" && \
    pip install -r /src/requirements/cpu.txt -r /src/requirements/demo.txt
COPY . /src
RUN pip install --no-build-isolation /src

FROM build AS build-cuda
RUN pip install -r /src/requirements/cuda.txt -r /src/requirements/demo.txt
COPY . /src
RUN pip install --no-build-isolation /src

FROM base AS runtime
ENV OUTTHINK_DATA_DIR=/data OUTTHINK_CACHE_DIR=/data/cache HF_HOME=/data/huggingface
RUN useradd --uid 1000 --create-home outthink && install --directory --owner=outthink --mode=700 /data
WORKDIR /home/outthink
USER 1000
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=5m \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
CMD ["outthink", "serve"]

# vLLM compiles kernels for the machine that it runs on; its CPU build is linked with libnuma.
FROM runtime AS runtime-vllm
USER 0
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install --yes --no-install-recommends g++ libnuma1 && \
    rm -rf /var/lib/apt/lists/*
USER 1000

FROM runtime-vllm AS cpu
COPY --from=build-cpu /opt/outthink /opt/outthink

FROM runtime-vllm AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /opt/outthink /opt/outthink

FROM runtime AS service
COPY --from=build-service /opt/outthink /opt/outthink
