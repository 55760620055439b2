#!/bin/sh
# Runs a command with one GPU of this host, that of its local rank: own_gpu.sh COMMAND [ARGUMENT]...
# own_gpu.sh --list prints the GPUs of this host, each with its PCI address and its device file.
#
# WebGPU gives every process the same one of several equal adapters, and Vulkan ignores CUDA_VISIBLE_DEVICES. So the
# device files of the other GPUs are hidden in a mount namespace. If that is not allowed, as in most containers,
# Mesa's device-select layer is asked for the GPU. The command finds the address of its GPU in TOY_GPU_ADDRESS.
set -eu

local_rank=${OMPI_COMM_WORLD_LOCAL_RANK:-${SLURM_LOCALID:-}}
local_size=${OMPI_COMM_WORLD_LOCAL_SIZE:-}

# Whether this process may open a device file, and it is not hidden.
is_open() {
  [ -r "$1" ] && [ -w "$1" ] && ! [ "$1" -ef /dev/null ]
}

# The GPUs that this process may open, which Slurm and containers restrict: lines of PCI address and device file.
# They are NVIDIA's, or else those of the kind of which Mesa drives the most: not the one in the processor.
gpus() {
  found=
  for file in /dev/nvidia[0-9]*; do
    is_open "$file" || continue
    address=$(grep -ls "^Device Minor:[[:space:]]*${file##*nvidia}\$" /proc/driver/nvidia/gpus/*/information |
      sed 's|/information$||; s|.*/||')
    found=yes && echo "${address:-$file} $file"
  done
  [ -z "$found" ] || return 0
  nodes=$(for node in /sys/class/drm/renderD*; do
    file=/dev/dri/${node##*/}
    is_open "$file" || continue
    address=$(readlink "$node/device")
    echo "$(cat "$node/device/vendor")$(cat "$node/device/device") ${address##*/} $file"
  done)
  kind=$(echo "$nodes" | cut -d ' ' -f 1 | sort | uniq -c | sort -rn | sed -n '1s/.* //p')
  echo "$nodes" | sed -n "s/^$kind //p"
}

has_device_select() {
  for folder in /usr/share /usr/local/share /etc /usr/local/etc "${HOME:-/}/.local/share"; do
    [ ! -e "$folder/vulkan/implicit_layer.d/VkLayer_MESA_device_select.json" ] || return 0
  done
  return 1
}

[ "${1:-}" != --list ] || { gpus && exit; }

# Nothing to choose: no rank, the only one of its host, or the user has chosen.
if [ -z "$local_rank" ] || [ "$local_size" = 1 ] || [ -n "${DRI_PRIME:-}${MESA_VK_DEVICE_SELECT:-}" ]; then
  exec "$@"
fi
all=$(gpus)
# the numbers that CUDA_VISIBLE_DEVICES lists, which Slurm sets, are those of GPUs that can be opened, from 0
own=
for number in $(echo "${CUDA_VISIBLE_DEVICES:-}" | grep -x '[0-9,]*' | tr , ' '); do
  own="$own$(echo "$all" | sed -n "$((number + 1))p")
"
done
own=$(echo "$own" | grep .) || own=$all
mine=$(echo "$own" | sed -n "$((local_rank % $(echo "$own" | wc -l) + 1))p")
others=$(echo "$all" | grep -vxF "$mine" | cut -d ' ' -f 2) || true
[ -n "$others" ] || exec "$@"

address=${mine% *}
case ${OMPI_COMM_WORLD_SIZE:-}:${SLURM_NNODES:-1} in
  "$local_size":1) ;;
  *) address="$address of $(uname -n)" ;; # others have GPUs at this address, too
esac
# Mounting takes root, who other users are in a namespace of users. There Open MPI would refuse them, as their number
# differs from mpirun's, so that a second such namespace gives it back; and it cannot read from rank to rank, of which
# it would warn.
# shellcheck disable=SC2016 # another shell has these variables
hide='for file in $others; do mount --bind /dev/null "$file" || exit; done; unset others'
user="env OMPI_MCA_btl_vader_single_copy_mechanism=none unshare --user --map-user=$(id -u) --map-group=$(id -g)"
export others
for way in "--mount|" "--mount --map-root-user|$user"; do
  namespace="unshare ${way%|*}"
  # shellcheck disable=SC2086 # several words
  if $namespace sh -ec "$hide; exec ${way#*|} true" 2>/dev/null; then
    export TOY_GPU_ADDRESS="$address"
    exec $namespace sh -ec "$hide; exec ${way#*|} \"\$@\"" sh "$@"
  fi
done
unset others
case ${mine% *} in
  *:*:*.*)
    if has_device_select; then
      DRI_PRIME=pci-$(echo "${mine% *}" | tr :. __)
      export DRI_PRIME MESA_VK_DEVICE_SELECT_FORCE_DEFAULT_DEVICE=1
      export TOY_GPU_ADDRESS="$address if Mesa's layer selects it"
      exec "$@"
    fi
    ;;
esac
[ "$local_rank" -ne 0 ] ||
  echo "toy: cannot give each rank its own GPU, so that ranks share one: allow mount namespaces" \
    "(docker run --cap-add SYS_ADMIN), or install Mesa's device-select layer (mesa-vulkan-drivers)" >&2
exec "$@"
