"""What trained weights must be like to be published: weights that the engine would refuse, or that do harm, are not."""

from __future__ import annotations

import json
from pathlib import Path

from service.jobs.published import CONFIG
from training.errors import TrainingError


def check_adapter(folder: Path, base: str, max_rank: int | None, *, learnt: bool = True) -> None:
    """Refuse an adapter that the engine would not load, or that does harm or, if it has `learnt`, nothing."""
    try:
        config = json.loads((folder / CONFIG).read_text())
        kind, made_for, rank = config["peft_type"], config["base_model_name_or_path"], int(config["r"])
    except (OSError, ValueError, KeyError) as error:
        raise refused(f"its {CONFIG} cannot be read: {error}") from error
    if kind != "LORA":
        raise refused(f"it is a {kind}, not a LoRA")
    if made_for != base:
        raise refused(f"it was made for {made_for}, the engine serves {base}")
    if max_rank is not None and rank > max_rank:
        raise refused(f"its rank is {rank}, the engine takes {max_rank} at most")
    effective = check_weights(folder)
    if learnt and not effective:
        raise refused("all of it is zero: nothing was learnt")


def check_weights(folder: Path) -> bool:
    """Refuse weights that are missing, broken or not finite; whether any of LoRA's second factors is not zero."""
    from safetensors import SafetensorError, safe_open

    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise refused("there are none")
    effective = False
    for path in paths:
        try:
            with safe_open(path, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                    tensor = tensors.get_tensor(name)
                    if not tensor.isfinite().all():
                        raise refused(f"{name} holds values that are not finite; a lower learning rate may help")
                    effective = effective or ("lora_B" in name and bool(tensor.any()))
        except (OSError, SafetensorError) as error:
            raise refused(f"{path.name} cannot be read: {error}") from error
    return effective


def refused(why: str) -> TrainingError:
    return TrainingError(f"the trained weights were not published: {why}", code="invalid_weights")
