#!/usr/bin/env bash
# Build the peers' virtual environments beside this file: .venv-fuxictr and .venv-deepctr.
# Set TORCH_INDEX=https://download.pytorch.org/whl/cpu where the usual index serves the CUDA build of torch.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
python="${PYTHON:-python3}"

for peer in fuxictr deepctr; do
  "$python" -m venv ".venv-$peer"
  pip=(".venv-$peer/bin/python" -m pip install --quiet)
  # torch goes first, so that a peer's looser wish cannot choose another version.
  "${pip[@]}" ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch==2.13.0
  "${pip[@]}" -r "requirements-$peer.txt"
  echo "benchmarks/peers/.venv-$peer is ready"
done
