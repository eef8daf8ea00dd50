# The images of slurm/*.sh: one to train for each engine, and vLLM's servers (ROLLOUT_IMAGE):
#   docker build --target megatron     --build-arg REVISION="$(git rev-parse HEAD)" -t medatron .
#   docker build --target nemo_aligner --build-arg REVISION="$(git rev-parse HEAD)" -t medatron-nemo .
#   docker build --target rollout      --build-arg REVISION="$(git rev-parse HEAD)" -t medatron-rollout .
#
# torch, CUDA, NCCL, Transformer Engine, Apex and flash-attention are the base image's and stay as they are, and so are
# NeMo, NeMo-Aligner and megatron-core in NeMo's. What is installed here is the rest, at the versions that the project's
# tests ran with.

# torch 2.10 and CUDA 13.1. FP8 block scaling needs CUDA 12.9 or later; megatron-core 0.16.1 names Transformer Engine
# from 2.9 to below 2.12.
ARG BASE=nvcr.io/nvidia/pytorch:25.12-py3
# The one that NeMo-Aligner's own documents name; the versions in it are checked at the end of the stage.
ARG NEMO_BASE=nvcr.io/nvidia/nemo:25.02
# The version of vLLM that the tests run with, in vLLM's own image.
ARG ROLLOUT_BASE=vllm/vllm-openai:v0.32.0

FROM ${NEMO_BASE} AS nemo_aligner

RUN pip list --format=freeze >/tmp/before.txt \
    && { grep -iE '^(torch|torchvision|triton|numpy|transformer[-_]engine|apex|flash[-_]attn|megatron[-_]core|nemo.*|transformers|protobuf)==' \
         /tmp/before.txt >/tmp/keep.txt || true; } \
    && PIP_CONSTRAINT=/tmp/keep.txt pip install --no-cache-dir \
        fastapi==0.165.0 \
        httptools==0.9.0 \
        httpcore==1.0.9 \
        httpx==0.28.1 \
        hydra-core==1.3.2 \
        nltk==3.10.4 \
        openai==3.54.0 \
        prometheus-client==0.26.0 \
        psutil==7.2.2 \
        pydantic==2.14.3 \
        rich==15.0.0 \
        uvicorn==0.54.0 \
        uvloop==0.23.0 \
    && pip list --format=freeze >/tmp/after.txt \
    && while read -r kept; do \
         grep -qxF "$kept" /tmp/after.txt || { echo "$kept of the base image was replaced" >&2; exit 1; }; \
       done </tmp/keep.txt \
    && rm /tmp/before.txt /tmp/keep.txt /tmp/after.txt

COPY configs /opt/medatron/configs
COPY reward_server /opt/medatron/reward_server
COPY conversion /opt/medatron/conversion
COPY recipes /opt/medatron/recipes
ENV PYTHONPATH=/opt/medatron PYTHONUNBUFFERED=1
WORKDIR /opt/medatron

ARG NEEDED="transformer-engine apex nemo-aligner"
RUN python3 -m recipes.runtime.versions ${NEEDED}

ARG REVISION=unknown
LABEL org.opencontainers.image.title="medatron-nemo" \
      org.opencontainers.image.description="Medatron with NeMo-Aligner as its engine" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"

USER 1000:1000

FROM ${ROLLOUT_BASE} AS rollout

# Which imports vLLM and what vLLM needs, and nothing else of the project.
COPY recipes/__init__.py /opt/medatron/recipes/__init__.py
COPY recipes/sampling/__init__.py /opt/medatron/recipes/sampling/__init__.py
COPY recipes/sampling/vllm /opt/medatron/recipes/sampling/vllm
ENV PYTHONPATH=/opt/medatron PYTHONUNBUFFERED=1
WORKDIR /opt/medatron

# Empty lets the file be checked on a base without vLLM.
ARG VLLM=0.32.0
RUN python3 -c 'import importlib.metadata, sys; found = sys.argv[1] and importlib.metadata.version("vllm"); \
        sys.exit(found.split("+")[0] != sys.argv[1] and f"vllm {found} in the base image, expected {sys.argv[1]}")' "${VLLM}" \
    && python3 -m recipes.sampling.vllm.serve --help >/dev/null

ARG REVISION=unknown
LABEL org.opencontainers.image.title="medatron-rollout" \
      org.opencontainers.image.description="vLLM as Medatron's sampler" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"

USER 1000:1000
# Its own starts a server without the trainer's part.
ENTRYPOINT ["python3", "-m", "recipes.sampling.vllm.serve"]

FROM ${BASE} AS megatron

# The base image's own constraints hold every package back that it happens to contain; keep.txt holds only those that
# were compiled against each other, and the last comparison proves that it did. megatron-core comes without its
# dependencies because torch is one of them.
RUN pip list --format=freeze >/tmp/before.txt \
    && { grep -iE '^(torch|torchvision|triton|numpy|transformer[-_]engine|apex|flash[-_]attn)==' /tmp/before.txt \
         >/tmp/keep.txt || true; } \
    && PIP_CONSTRAINT=/tmp/keep.txt pip install --no-cache-dir \
        bm25s==0.3.16 \
        datasets==4.8.5 \
        fastapi==0.165.0 \
        httptools==0.9.0 \
        httpcore==1.0.9 \
        httpx==0.28.1 \
        huggingface-hub==1.33.0 \
        hydra-core==1.3.2 \
        nltk==3.10.4 \
        openai==3.54.0 \
        prometheus-client==0.26.0 \
        psutil==7.2.2 \
        pyarrow==26.0.1 \
        pydantic==2.14.3 \
        pyyaml==6.0.3 \
        rich==15.0.0 \
        safetensors==0.8.0 \
        tensorboard==2.21.0 \
        tokenizers==0.23.3 \
        transformers==5.23.0 \
        uvicorn==0.54.0 \
        uvloop==0.23.0 \
    && PIP_CONSTRAINT='' pip install --no-cache-dir --no-deps megatron-core==0.16.1 \
    && pip list --format=freeze >/tmp/after.txt \
    && while read -r kept; do \
         grep -qxF "$kept" /tmp/after.txt || { echo "$kept of the base image was replaced" >&2; exit 1; }; \
       done </tmp/keep.txt \
    && rm /tmp/before.txt /tmp/keep.txt /tmp/after.txt

# The code is not installed but found through PYTHONPATH, since configs/ lies beside it. A job that mounts a checkout
# and works in it runs that one instead.
COPY configs /opt/medatron/configs
COPY reward_server /opt/medatron/reward_server
COPY conversion /opt/medatron/conversion
COPY recipes /opt/medatron/recipes
ENV PYTHONPATH=/opt/medatron PYTHONUNBUFFERED=1
WORKDIR /opt/medatron

# What must be in the image for it to be of use; empty lets the file be checked on a base without it.
ARG NEEDED="transformer-engine apex"
RUN python3 -m recipes.runtime.versions ${NEEDED}

ARG REVISION=unknown
LABEL org.opencontainers.image.title="medatron" \
      org.opencontainers.image.description="Reinforcement learning of medical reasoning on Megatron" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"

# Nothing above needs root at run time, and Slurm's container plugins run as the submitting user anyway.
USER 1000:1000
