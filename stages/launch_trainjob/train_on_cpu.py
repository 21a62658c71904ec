"""The part of the training script that trains without a GPU: the arguments for that, and CPU devices in the place of
CUDA's."""

import math
import os
import sys
from pathlib import Path

from kfp_osft.stages.launch_trainjob.train_end import SAY


def arguments_for_cpu(osft_args: dict) -> dict:
    """The same arguments for a training on the CPU; sets its processes' environment, says what changes."""
    osft_args = dict(osft_args)
    # What the arguments say, then the TrainJob's server. "auto" and "gpu" count GPUs, of which there is none.
    processes = osft_args.get("nproc_per_node") or os.environ.get("PET_NPROC_PER_NODE")
    processes = int(str(processes)) if str(processes).isdigit() else 1
    osft_args["nproc_per_node"] = processes
    if osft_args.get("use_liger"):
        osft_args["use_liger"] = False
        print(f"{SAY}Liger kernels need a GPU: training without them (use_liger=False)")
    # torchrun gives each of several processes one thread. PyTorch gives a single one all of the machine, also
    # where its container may use a small part of it.
    threads = os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
    # GNU OpenMP's threads spin while they wait, so that beside other load a step takes several times as long.
    # Spinning a little costs nothing there and next to nothing on a quiet machine; not at all costs a quarter.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # mini-trainer packs a batch by a function that numba takes eight seconds to compile and Python milliseconds to run.
    os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
    if int(osft_args.get("nnodes") or os.environ.get("PET_NNODES") or 1) == 1:
        # gloo looks up this host's name, which a laptop off its network or a sandbox cannot resolve.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    print(f"{SAY}training on the CPU, processes: {processes}, threads of each: {threads}")
    return osft_args


def usable_cores() -> int:
    """The CPU cores this process may use: its affinity, and the CPU limit of its container (cgroup v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or its quota is "max"
        return cores


def put_cpu_in_place_of_cuda() -> None:
    """Replaces the names by which mini-trainer reaches CUDA; for all other code torch stays itself."""
    import torch
    import torch.distributed.checkpoint.state_dict as state_dict_module
    from mini_trainer import osft_utils, setup_model_for_training, utils

    class TorchOnCpu:
        """torch, but for device("cuda", ...). torch.device itself must remain a type, for isinstance."""

        def __getattr__(self, name: str):
            return getattr(torch, name)

        @staticmethod
        def device(kind, *index):
            return torch.device("cpu") if kind == "cuda" else torch.device(kind, *index)

    for module in (utils, osft_utils, setup_model_for_training):
        vars(module)["torch"] = TorchOnCpu()

    init_process_group = torch.distributed.init_process_group
    init_device_mesh = setup_model_for_training.init_device_mesh
    get_model_state_dict = state_dict_module.get_model_state_dict

    def init_gloo(backend=None, *args, device_id=None, **kwargs):
        return init_process_group("gloo", *args, **kwargs)

    def init_cpu_mesh(device_type, *args, **kwargs):
        return init_device_mesh("cpu", *args, **kwargs)

    def get_copied_state_dict(*args, **kwargs):
        # cpu_offload copies each tensor off the GPU. On the CPU it copies nothing: tied embeddings stay one
        # tensor with two names, which safetensors refuses. Copied, the file is the one a GPU would save.
        state_dict = get_model_state_dict(*args, **kwargs)
        seen = set()
        for name, tensor in state_dict.items():
            if isinstance(tensor, torch.Tensor):
                place = tensor.untyped_storage().data_ptr()
                state_dict[name] = tensor.clone() if place in seen else tensor
                seen.add(place)
        return state_dict

    torch.distributed.init_process_group = init_gloo
    setup_model_for_training.init_device_mesh = init_cpu_mesh
    state_dict_module.get_model_state_dict = get_copied_state_dict
    torch.cuda.set_device = lambda *args, **kwargs: None
    torch.cuda.reset_peak_memory_stats = lambda *args, **kwargs: None
    # There is no GPU memory; kfp-osft's metrics take a figure above 0 for a GPU's.
    torch.cuda.max_memory_allocated = lambda *args, **kwargs: 0
