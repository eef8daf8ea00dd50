#!/usr/bin/env bash
# bash install.sh [FOLDER]: installs the bundle that it lies in (requirements/gpu_bundle.py makes it) beside this
# machine's own packages, without a network, and changes none of them. Packages go to FOLDER/site, the code to
# FOLDER/medatron; the last line says what to export. PYTHON is python3 unless set.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$PWD/medatron-gpu}
python=${PYTHON:-python3}
mkdir -p "$folder/medatron"
folder=$(cd "$folder" && pwd)
install=("$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade)
"${install[@]}" --target "$folder/site" "$here"/wheels/*.whl
for source in "$here"/wheels/transformer_engine_torch-*.tar.gz; do
  if [[ -e $source ]]; then
    packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nvidia
    export CPATH=$packages/cudnn/include:$packages/nccl/include NVTE_FRAMEWORK=pytorch NVTE_PYTORCH_FORCE_BUILD=TRUE
    PYTHONPATH=$folder/site "${install[@]}" --no-build-isolation --target "$folder/site" "$source"
  fi
done
tar -xzf "$here/medatron.tar.gz" -C "$folder/medatron"
echo "export PYTHONPATH=$folder/medatron:$folder/site NVTE_FRAMEWORK=pytorch"
