"""A model of about a third of the demo model's size, made of some of its layers.

    python -m benchmarks.claims.small SOURCE TARGET

Embeddings and the final norm stay, and so do the first and the last layer, between which the others are spread evenly.
It says little that makes sense until it is trained. A process of its own, since the service never imports torch.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

SHARE = 1 / 3
WEIGHTS = "model.safetensors"
LAYER = re.compile(r"^(model\.layers\.)(\d+)(\..+)$")


def ensure(source: Path, target: Path) -> Path:
    """Make it where it is not made yet; the folder is whole or absent."""
    if not target.exists():
        command = [sys.executable, "-m", "benchmarks.claims.small", str(source), str(target)]
        if status := subprocess.run(command).returncode:
            raise RuntimeError(f"the small model could not be made from {source} (exit {status})")
    return target


def kept_layers(sizes: Mapping[str, int], share: float = SHARE) -> Sequence[int]:
    """Which layers, for the share of all parameters that comes nearest to what is wanted, from the tensors' sizes."""
    per_layer: Counter[int] = Counter()
    for name, size in sizes.items():
        if found := LAYER.match(name):
            per_layer[int(found[2])] += size
    layers, total = len(per_layer), sum(sizes.values())
    count = round((share * total - (total - per_layer.total())) / per_layer[0])
    if not 2 <= count <= layers:
        raise ValueError(f"{share:.0%} of the parameters would be {count} of {layers} layers: two are the least")
    return [round(place * (layers - 1) / (count - 1)) for place in range(count)]


def renamed(names: Sequence[str], kept: Sequence[int]) -> Mapping[str, str]:
    """What the tensors that stay are called: layers are numbered anew."""
    numbers = {old: new for new, old in enumerate(kept)}
    found: dict[str, str] = {}
    for name in names:
        match = LAYER.match(name)
        if match is None:
            found[name] = name
        elif int(match[2]) in numbers:
            found[name] = f"{match[1]}{numbers[int(match[2])]}{match[3]}"
    return found


def build(source: Path, target: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(source / WEIGHTS)
    kept = kept_layers({name: tensor.numel() for name, tensor in tensors.items()})
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as made:
        folder = Path(made) / target.name
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns(WEIGHTS))
        stay = renamed([*tensors], kept)
        save_file({new: tensors[old] for old, new in stay.items()}, folder / WEIGHTS, metadata={"format": "pt"})
        config = json.loads((source / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": len(kept)}, indent=2))
        folder.rename(target)
    print(f"{target}: layers {', '.join(map(str, kept))} of {config['num_hidden_layers']}")


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
