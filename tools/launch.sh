# Sourced by dist_train.sh and dist_test.sh: launch SCRIPT PROCESSES ARGUMENTS...
launch() {
  local script="$1" processes="$2"
  shift 2
  if ! [[ "$processes" =~ ^[1-9][0-9]*$ ]]; then
    echo "expected a number of processes on this node, found '$processes'" >&2
    return 2
  fi
  local nodes="${NNODES:-1}" rendezvous=()
  if [ "$nodes" -gt 1 ]; then
    : "${MASTER_ADDR:?NNODES is $nodes: set MASTER_ADDR to the first node}"
    rendezvous=(--nnodes "$nodes" --node-rank "${NODE_RANK:?NNODES is $nodes: set NODE_RANK}"
                --master-addr "$MASTER_ADDR" --master-port "${PORT:-29500}")
  elif [ -n "${PORT:-}" ]; then
    rendezvous=(--master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "$PORT")
  else
    rendezvous=(--standalone)  # a free port
  fi
  local python="${PYTHON:-python}"
  exec "$python" -m torch.distributed.run "${rendezvous[@]}" --nproc-per-node "$processes" \
    "$script" "$@" --launcher pytorch
}
