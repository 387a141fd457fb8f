"""Keep what a frozen teacher said about each batch on disk, for runs that see the same augmented images again.

Augmentation depends only on seed, epoch and position, so that every run with one seed asks the teacher the same
questions. A file's name is a digest of the batch's pixels: another seed, split or augmentation can never be answered
with the wrong file. What the digest cannot know (which teacher, in which precision) is the folder's key.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .dataset import Batch
from .teacher_student import Outputs

Ask = Callable[[Batch], Outputs]


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 of a network's tensors, names included, in the order of names."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class TeacherCache:
    """Answer from the folder where it can, otherwise ask the teacher and keep its answer.

    folder: made where missing. key: what all answers in it have in common: the teacher's digest, precision, device and
    version of torch. batches: how many answers the run will need, for the check of free disk space. Raises ValueError
    where the folder belongs to another key or holds something else, OSError where the disk is too small.
    """

    def __init__(self, ask: Ask, folder: Path, key: dict[str, str | int], batches: int) -> None:
        self.ask, self.folder, self.batches = ask, folder, batches
        self.hits = self.misses = 0
        self._check_key(key)

    def _check_key(self, key: dict[str, str | int]) -> None:
        path = self.folder / "key.json"
        cure = "give another folder, or delete this one"
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"distill.cache {self.folder}: must be a folder, it is a file; {cure}")
        if not path.is_file():
            # Several processes may come at once: what belongs to the key itself is no other file.
            if self.folder.is_dir() and any(not p.name.startswith(path.name) for p in self.folder.iterdir()):
                raise ValueError(f"distill.cache {self.folder}: must be empty or a cache, it holds other files; {cure}")
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                scratch = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.part")
                scratch.write_text(json.dumps(key, indent=1), encoding="utf-8")
                os.replace(scratch, path)
            except OSError as error:
                raise OSError(
                    error.errno, f"distill.cache {self.folder}: cannot be written ({error.strerror}); {cure}"
                ) from error
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"distill.cache {self.folder}: its key.json is damaged ({error}); {cure}") from error
        for name in sorted(key.keys() | kept.keys()):
            if kept.get(name) != key.get(name):
                raise ValueError(
                    f"distill.cache {self.folder}: was made with {name} {kept.get(name)!r}, this run has "
                    f"{key.get(name)!r}; {cure}"
                )

    def __call__(self, batch: Batch) -> Outputs:
        """Return the teacher's outputs for a batch, on the batch's device, bit for bit what the teacher said."""
        pixels = batch.images.cpu().contiguous().numpy()
        name = hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest()
        path = self.folder / name[:2] / f"{name}.safetensors"
        if path.is_file():
            try:
                kept = load_file(path, device=str(batch.images.device))
                self.hits += 1
                return _unpacked(kept)
            except (SafetensorError, KeyError):
                path.unlink(missing_ok=True)  # a torn file of a machine that went away: ask again
        answer = self.ask(batch)
        self._keep(path, answer)
        self.misses += 1
        return answer

    def _keep(self, path: Path, answer: Outputs) -> None:
        tensors = {k: v.detach().cpu().contiguous() for k, v in _packed(answer).items()}
        if not self.misses:
            need = sum(t.numel() * t.element_size() for t in tensors.values()) * (self.batches - self.hits)
            free = shutil.disk_usage(self.folder).free
            if need > free:
                raise OSError(
                    f"distill.cache {self.folder}: the teacher's outputs need about {need / 1e9:.1f} GB, "
                    f"{free / 1e9:.1f} GB are free; give a folder on a larger disk, or leave distill.cache empty"
                )
        path.parent.mkdir(exist_ok=True)
        scratch = path.with_suffix(f".{os.getpid()}.part")
        try:
            save_file(tensors, scratch)
            os.replace(scratch, path)
        except (OSError, SafetensorError) as error:
            scratch.unlink(missing_ok=True)
            raise OSError(f"distill.cache {self.folder}: cannot be written ({error}); free some space") from error


def _packed(answer: Outputs) -> dict[str, Tensor]:
    tensors = {f"map_{stride}": m for stride, m in answer.maps.items()}
    return tensors | {f"head_{i}": h for i, h in enumerate(answer.heads)}


def _unpacked(tensors: dict[str, Tensor]) -> Outputs:
    strides = sorted(int(name[4:]) for name in tensors if name.startswith("map_"))
    count = sum(name.startswith("head_") for name in tensors)
    # As the convolutions leave them: in another layout the sums over cells would round differently.
    tensors = {name: t.contiguous(memory_format=torch.channels_last) for name, t in tensors.items()}
    return Outputs({s: tensors[f"map_{s}"] for s in strides}, [tensors[f"head_{i}"] for i in range(count)])
