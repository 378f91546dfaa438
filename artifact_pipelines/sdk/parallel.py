"""How a training is spread over processes, told by what is loaded; nothing is imported for it."""

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

_WRAPPERS: Final = {
    "DistributedDataParallel": "ddp",
    "FullyShardedDataParallel": "fsdp",
    "FSDPModule": "fsdp2",
    "DeepSpeedEngine": "deepspeed",
    "DataParallel": "dp",
}
"""Classes that spread a model, by what that is called."""

_MEGATRON: Final = {
    "tensor": "get_tensor_model_parallel_world_size",
    "pipeline": "get_pipeline_model_parallel_world_size",
    "data": "get_data_parallel_world_size",
    "context": "get_context_parallel_world_size",
    "expert": "get_expert_model_parallel_world_size",
}


def layout_of(model: object, weights: object) -> dict[str, Any]:
    """Return into how many parts a training is cut, and how, as far as that can be seen.

    Args:
        model: What was passed as the weights: a model, or their state.
        weights: The state.
    """
    found: dict[str, Any] = {}
    for name, variable in (("world_size", "WORLD_SIZE"), ("local_world_size", "LOCAL_WORLD_SIZE")):
        text = os.environ.get(variable, "")
        if text.isdigit():
            found[name] = int(text)
    found |= _process_group()
    sizes = _megatron() | _mesh(model, weights)
    if sizes:
        found["sizes"] = sizes
    wrapped = [_WRAPPERS[kind.__name__] for kind in type(model).__mro__ if _is_wrapper(kind)]
    if wrapped:
        found["wrapped"] = wrapped[0]
    stage = _asked(getattr(model, "zero_optimization_stage", None))
    if stage:
        found["zero_stage"] = stage
    return found


def _is_wrapper(kind: type) -> bool:
    return kind.__name__ in _WRAPPERS and kind.__module__.partition(".")[0] in {
        "torch",
        "deepspeed",
    }


def _process_group() -> dict[str, Any]:
    """Return size and backend of PyTorch's processes, where they are connected."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return {}
    return {"world_size": distributed.get_world_size(), "backend": distributed.get_backend()}


def _megatron() -> dict[str, int]:
    """Return the sizes of Megatron's groups, where it has made them."""
    state = sys.modules.get("megatron.core.parallel_state")
    if state is None or not state.model_parallel_is_initialized():
        return {}
    found = {name: _asked(getattr(state, asked, None)) for name, asked in _MEGATRON.items()}
    return {name: size for name, size in found.items() if size}


def _mesh(model: object, weights: object) -> dict[str, int]:
    """Return the sizes of the mesh that tensors are spread over, by the names of its axes."""
    tensors = list(weights.values()) if isinstance(weights, Mapping) else []
    if "torch" in sys.modules and isinstance(model, sys.modules["torch"].nn.Module):
        tensors += model.parameters()
    meshes = [getattr(tensor, "device_mesh", None) for tensor in tensors]
    # FSDP cuts along one axis of the mesh that tensor parallelism cuts along another.
    widest = max(
        (mesh for mesh in meshes if mesh is not None), key=lambda mesh: mesh.ndim, default=None
    )
    if widest is None:
        return {}
    names = widest.mesh_dim_names or [str(place) for place in range(widest.ndim)]
    return {str(name): int(widest.size(place)) for place, name in enumerate(names)}


def _asked(question: Callable[[], Any] | None) -> int | None:
    """Return the number that a framework answers, or nothing where it has no answer."""
    try:
        answer = None if question is None else question()
    except Exception:  # noqa: BLE001 (whatever it raises, the checkpoint is what matters)
        return None
    return answer if isinstance(answer, int) and not isinstance(answer, bool) else None
