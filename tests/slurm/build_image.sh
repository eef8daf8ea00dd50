#!/usr/bin/env bash
# Builds the Dockerfile without NGC's base images, so that its every COPY and RUN line is executed on a machine without a
# registry or a GPU; needs root, buildah and mmdebstrap.
#
#   build_image.sh [BUILDAH_OPTION ...]
#
# The stand-in for a base is Debian 12 with Python 3.11, pip and a CPU build of torch, and for NeMo's with the code of
# NeMo-Aligner and its megatron-core, not what those need. BUILDAH_OPTIONs go to every
# buildah command that reaches package indexes: --volume for a pip.conf or certificates of your network.
# The last line says what the image can do. Left out: Transformer Engine, Apex and everything of CUDA.
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
name=medatron-check-$$
storage=(--storage-driver=vfs "--root=$work/storage" "--runroot=$work/run")
trap 'buildah "${storage[@]}" rm --all >/dev/null 2>&1 || true; rm -rf "$work"' EXIT

in_container() { # BUILDAH_OPTION... -- CONTAINER COMMAND...
  local options=()
  while [[ $1 != -- ]]; do
    options+=("$1")
    shift
  done
  shift
  buildah "${storage[@]}" run --isolation=chroot --network=host "${options[@]}" "$1" -- "${@:2}"
}

mmdebstrap --quiet --variant=minbase --include=python3,python3-pip,ca-certificates bookworm "$work/base.tar"
base=$(buildah "${storage[@]}" from scratch)
buildah "${storage[@]}" add --quiet "$base" "$work/base.tar" / >/dev/null
rm "$work/base.tar"
# Debian forbids pip to install beside its own packages; NGC's images do not.
in_container -- "$base" sh -c 'rm -f /usr/lib/python3*/EXTERNALLY-MANAGED'
in_container "$@" -- "$base" pip install --quiet --no-cache-dir torch==2.13.0
buildah "${storage[@]}" commit --quiet "$base" "$name-base" >/dev/null

in_container "$@" -- "$base" pip install --quiet --no-cache-dir --no-deps megatron-core==0.10.0 nemo-aligner==0.7.0
buildah "${storage[@]}" commit --quiet --rm "$base" "$name-nemo-base" >/dev/null

build() { # TARGET BASE_ARGUMENT BASE BUILDAH_OPTION...
  buildah "${storage[@]}" bud --isolation=chroot --network=host --pull-never "${@:4}" \
    --build-arg "$2=localhost/$3" --build-arg NEEDED= --target "$1" --tag "$name-$1" .
}

build nemo_aligner NEMO_BASE "$name-nemo-base" "$@"
made=$(buildah "${storage[@]}" from --pull-never "localhost/$name-nemo_aligner")
in_container -- "$made" python3 -m reward_server --help >/dev/null
buildah "${storage[@]}" rm "$made" >/dev/null
buildah "${storage[@]}" rmi "$name-nemo_aligner" "$name-nemo-base" >/dev/null

build rollout ROLLOUT_BASE "$name-base" --build-arg VLLM= "$@"
made=$(buildah "${storage[@]}" from --pull-never "localhost/$name-rollout")
in_container -- "$made" python3 -m recipes.sampling.vllm.serve --help >/dev/null
buildah "${storage[@]}" rm "$made" >/dev/null
buildah "${storage[@]}" rmi "$name-rollout" >/dev/null

build megatron BASE "$name-base" "$@"
made=$(buildah "${storage[@]}" from --pull-never "localhost/$name-megatron")
for module in recipes.grpo recipes.sft recipes.evaluate recipes.preflight recipes.canary recipes.plan reward_server \
  conversion.hf_to_megatron conversion.megatron_to_hf conversion.release; do
  in_container -- "$made" python3 -m "$module" --help >/dev/null
done
[[ $(in_container -- "$made" id -u) == 1000 ]]
in_container --env MEDATRON_DEVICE=cpu -- "$made" python3 -c 'import recipes.engines.megatron.engine'
echo "all targets built; in megatron every entry point answers as user 1000, and the engine imports"
