"""Where a process runs: machine, container and variables, as facts that may be erased."""

import contextlib
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# What changes a training's numbers or its speed; everything else may hold a secret.
VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_VISIBLE_DEVICES",
    "HF_HUB_OFFLINE",
    "JAX_PLATFORMS",
    "KERAS_BACKEND",
    "LANG",
    "LOCAL_RANK",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "PYTHONHASHSEED",
    "RANK",
    "SLURM_JOB_ID",
    "TF_DETERMINISTIC_OPS",
    "TOKENIZERS_PARALLELISM",
    "TZ",
    "VECLIB_MAXIMUM_THREADS",
    "WORLD_SIZE",
)
_IMAGES = ("ARTIFACT_PIPELINES_IMAGE", "DAGSTER_CURRENT_IMAGE")
_SECRET = re.compile(
    r"(?i)(-{0,2}[\w.-]*(?:token|secret|passw|credential|api[_-]?key)[\w.-]*)(=.*)?"
)
_USERINFO = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]*@")
_CONTAINER = re.compile(r"[0-9a-f]{64}")


def surroundings() -> dict[str, Any]:
    """Return where this process runs, for the annex."""
    import getpass

    try:
        user = getpass.getuser()
    except (ImportError, KeyError, OSError):
        user = str(os.getuid())
    found = {
        "host": platform.node(),
        "user": user,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "cpus_usable": _usable_cpus(),
        "cpu": _cpu(),
        "memory_bytes": _memory(),
        "gpus": gpus(),
        "image": next((os.environ[name] for name in _IMAGES if os.environ.get(name)), None),
        "container": _container(),
        "argv": without_secrets(sys.argv),
        "variables": {key: without_secrets([os.environ[key]])[0] for key in _variables()},
    }
    return {name: value for name, value in found.items() if value is not None}


def gpus() -> dict[str, Any] | None:
    """Return the NVIDIA driver and devices, where there are any and NVML can be asked."""
    if not Path("/proc/driver/nvidia").exists() and "pynvml" not in sys.modules:
        # Importing NVML's binding costs more than everything else here.
        return None
    try:
        import pynvml as nvml

        nvml.nvmlInit()
    except Exception:  # noqa: BLE001 (a driver that does not answer is no reason not to train)
        return {"driver": _line("/proc/driver/nvidia/version")}
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(n) for n in range(nvml.nvmlDeviceGetCount())]
        cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()
        return {
            "driver": _text(nvml.nvmlSystemGetDriverVersion()),
            "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}",
            "devices": [
                {
                    "name": _text(nvml.nvmlDeviceGetName(handle)),
                    "uuid": _text(nvml.nvmlDeviceGetUUID(handle)),
                    "memory_bytes": int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
                }
                for handle in handles
            ],
        }
    except Exception:  # noqa: BLE001 (as above)
        return {"driver": _line("/proc/driver/nvidia/version")}
    finally:
        with contextlib.suppress(Exception):
            nvml.nvmlShutdown()


def threads() -> dict[str, Any]:
    """Return how many threads the numeric libraries may use, as far as it was said."""
    found: dict[str, Any] = {
        name: os.environ[name]
        for name in VARIABLES
        if name.endswith("_THREADS") and os.environ.get(name, "").isdigit()
    }
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        found["torch"] = int(torch.get_num_threads())
    return found


def usage() -> dict[str, Any]:
    """Return what this process has used so far: seconds and the most memory."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    scale = 1 if sys.platform == "darwin" else 1024
    return {
        "user_seconds": round(used.ru_utime, 3),
        "system_seconds": round(used.ru_stime, 3),
        "peak_memory_bytes": used.ru_maxrss * scale,
    }


def without_secrets(arguments: Sequence[str]) -> list[str]:
    """Return a command line without what looks like a secret in it."""
    shown: list[str] = []
    hide = False
    for argument in arguments:
        found = _SECRET.fullmatch(argument)
        if found is None:
            shown.append("…" if hide else _USERINFO.sub("…@", argument))
            hide = False
        else:
            shown.append(found[1] + ("=…" if found[2] else ""))
            hide = found[2] is None and argument.startswith("-")
    # Text that is no UTF-8 arrives as lone surrogates, which no JSON carries.
    return [text.encode("utf-8", "replace").decode() for text in shown]


def _variables() -> list[str]:
    return [name for name in VARIABLES if name in os.environ]


def _usable_cpus() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _cpu() -> str | None:
    found = _fields("/proc/cpuinfo").get("model name")
    return found or platform.processor() or None


def _memory() -> int | None:
    """Return the memory that this process may use: the machine's, or the container's limit."""
    limits = []
    with contextlib.suppress(ValueError, OSError, AttributeError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limit = _line("/sys/fs/cgroup/memory.max")
    if limit is not None and limit.isdigit():
        limits.append(int(limit))
    return min(limits, default=None)


def _container() -> str | None:
    for path in ("/proc/self/cgroup", "/proc/self/mountinfo"):
        with contextlib.suppress(OSError):
            found = _CONTAINER.search(Path(path).read_text(errors="replace"))
            if found is not None:
                return found[0]
    return None


def _fields(path: str) -> Mapping[str, str]:
    """Return the first value of each field of a file in /proc."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError), Path(path).open(errors="replace") as file:
        for line in file:
            name, marked, value = line.partition(":")
            if not marked:
                break
            found.setdefault(name.strip(), value.strip())
    return found


def _line(path: str) -> str | None:
    with contextlib.suppress(OSError):
        lines = Path(path).read_text(errors="replace").splitlines()
        return lines[0].strip() if lines else None
    return None


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
