#!/usr/bin/env bash
# Make the virtual environment that Flower is measured and compared in: benchmarks/peers/flower_env.sh DIR
# It brings its own release of Ray, which is why it is not the project's environment.
set -euo pipefail
python3 -m venv "${1:?name a folder}"
"$1/bin/pip" install --quiet --disable-pip-version-check \
    'flwr[simulation]==1.42.0' 'numpy>=2.4,<3' 'torch==2.13.0'
echo "export FEDKIM_FLOWER_PYTHON=$(cd "$1" && pwd)/bin/python"
