"""CUDA without a GPU: tensors on ``cuda`` have shapes, types and sizes, but no data.

Tensors on the CPU stay real. An operator that mixes the two fails, as it does on a GPU, and the
mode counts what the host would wait for (`FakeCuda.syncs`), what is copied and what is held.
Torch's fake tensors know the shape of every result; a small compiled library makes autograd believe
in the device. It changes torch for good, so all of this happens in a process of its own (`run`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

SOURCE = Path(__file__).with_suffix(".cpp")
CAPABILITY = (8, 0)
"""Compute capability of the imagined device."""

VIEWING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")
"""Operators that take indices on the CPU beside values on a GPU."""


class NoCompilerError(Exception):
    """The library cannot be compiled here; the message says why."""


def compiled(folder: Path) -> Path:
    """Compile the library into `folder`.

    Raises:
        NoCompilerError: there is no C++ compiler, or it fails.
    """
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise NoCompilerError("there is no C++ compiler (c++, g++, clang++)")
    library, torch_folder = folder / "fake_cuda.so", Path(torch.__file__).parent
    command = [compiler, "-O0", "-std=c++20", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
    libraries = torch_folder / "lib"
    command += [f"-I{torch_folder / 'include'}", f"-L{libraries}", f"-Wl,-rpath,{libraries}"]
    command += ["-lc10", "-ltorch_cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoCompilerError(f"{compiler} fails: {done.stderr.strip()[:500]}")
    return library


def run(module: str, library: Path) -> str:
    """Run a module in a process of its own that has the device; return what it printed.

    Torch asks for the device once, while it is imported, so the library is loaded before.
    """
    program = f"""
import ctypes, runpy
library = ctypes.CDLL({str(library)!r}, mode=ctypes.RTLD_GLOBAL)
import torch
assert library.register_device(), "torch has hooks of its own: it is built with CUDA"
runpy.run_module({module!r}, run_name="__main__")
"""
    command = [sys.executable, "-c", program]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def believe() -> None:
    """Prepare torch's Python side for the device."""
    torch.cuda._lazy_init = lambda: None
    torch.cuda.get_device_capability = lambda *_: CAPABILITY  # type: ignore[assignment]
    # A mode is seen by its own thread alone, and autograd has a thread for each device.
    torch.autograd.set_multithreading_enabled(False)
    torch._C._set_only_lift_cpu_tensors(True)
    # A fake tensor cannot take a real one's place, so a parameter that moves is another one.
    nn.Module._apply = _applied  # type: ignore[assignment]


def _applied(module: nn.Module, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
    """`nn.Module._apply` with new parameters; those that are tied stay tied."""
    made: dict[int, nn.Parameter] = {}
    for part in module.modules() if recurse else [module]:
        for name, weight in part._parameters.items():
            if weight is not None and id(weight) not in made:
                made[id(weight)] = nn.Parameter(function(weight.data), weight.requires_grad)
            part._parameters[name] = None if weight is None else made[id(weight)]
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else function(buffer)
    return module


class FakeCuda(TorchDispatchMode):
    """Within the block, operators on ``cuda`` make tensors without data.

    Args:
        truth: what a condition that is read from the device is.

    Attributes:
        launches: name of an operator on the device -> how often it ran.
        syncs: place in the code -> how often the host waits for the device there.
        to_device: bytes that were copied to the device.
        largest_to_host: bytes of the largest copy to the host.
        held: bytes that tensors on the device take now.
        peak: most bytes since the last `reset`.
    """

    def __init__(self, truth: bool = True) -> None:
        super().__init__()
        self.truth = truth
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.held = 0
        self._sizes: dict[int, int] = {}
        self.reset()

    def reset(self) -> None:
        """Count from here on."""
        self.launches: Counter[str] = Counter()
        self.syncs: Counter[str] = Counter()
        self.to_device = self.largest_to_host = 0
        self.peak = self.held

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operator: for real on the CPU, without data on the device."""
        options = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, options)) if isinstance(leaf, Tensor)]
        wanted = torch.device(options["device"]) if options.get("device") is not None else None
        on_device = [t for t in tensors if t.device.type == "cuda"]
        if not on_device and (wanted is None or wanted.type != "cuda"):
            return func(*args, **options)
        name = func._schema.name.split("::")[-1]
        if name in ("_local_scalar_dense", "is_nonzero", "equal"):
            return self._scalar(name, tensors[0])
        if name in ("_to_copy", "copy_"):
            moved = self._moved(name, args, options, wanted)
            if moved is not None:
                return moved
        return self._computed(func, name, args, options, tensors)

    def _scalar(self, name: str, value: Tensor) -> bool | float | int:
        self._wait(name)
        if name != "_local_scalar_dense" or value.dtype == torch.bool:
            return self.truth
        return 1.0 if value.is_floating_point() else 1

    def _moved(
        self, name: str, args: tuple[Any, ...], options: dict[str, Any], wanted: torch.device | None
    ) -> Tensor | None:
        """The result of a copy between host and device, None if it is none."""
        source = args[0] if name == "_to_copy" else args[1]
        target = (wanted or source.device) if name == "_to_copy" else args[0].device
        if source.device.type == target.type:
            return None
        size = source.numel() * source.element_size()
        kind = options.get("dtype") or source.dtype
        if target.type == "cpu":
            self._wait("copy to the host")
            self.largest_to_host = max(self.largest_to_host, size)
            return args[0] if name == "copy_" else torch.zeros(source.shape, dtype=kind)
        self.to_device += size
        return args[0] if name == "copy_" else self._empty(tuple(source.shape), kind)

    def _computed(
        self,
        func: Any,
        name: str,
        args: tuple[Any, ...],
        options: dict[str, Any],
        tensors: Sequence[Tensor],
    ) -> Any:
        for tensor in tensors:
            is_host = tensor.device.type == "cpu" and tensor.dim() > 0
            if is_host and name not in VIEWING:
                raise RuntimeError(f"{name} at {_where()}: a tensor of the host beside the device")
        generator = options.get("generator")
        if generator is not None and generator.device.type == "cpu":
            raise RuntimeError(f"{name} at {_where()}: a generator of the host for the device")
        if name == "nonzero":
            self._wait(name)
            return self._empty((args[0].numel(), args[0].dim()), torch.int64)
        if name == "repeat_interleave" and options.get("output_size") is None:
            self._wait(name)
            return self._empty((max(1, args[0].numel()),), torch.int64)
        if name in VIEWING and any(i is not None and i.dtype == torch.bool for i in args[1]):
            # As if the mask were true everywhere.
            self._wait(f"{name} by a mask")
            indices = [
                self._empty(tuple(i.shape), torch.int64)
                if i is not None and i.dtype == torch.bool
                else i
                for i in args[1]
            ]
            args = (args[0], indices, *args[2:])
        self.launches[name] += 1
        known = tree_map_only(Tensor, self._known, (args, options))
        with self.fake:
            result = func(*known[0], **known[1])
        for leaf in tree_leaves(result):
            self._hold(leaf)
        return result

    def _known(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        found: Tensor = self.fake.from_tensor(tensor)
        return found

    def _empty(self, shape: tuple[int, ...], kind: torch.dtype) -> Tensor:
        with self.fake:
            made = torch.empty(shape, dtype=kind, device="cuda")
        self._hold(made)
        return made

    def _hold(self, tensor: Any) -> None:
        """Count a tensor's memory until it is freed."""
        if not isinstance(tensor, FakeTensor) or tensor.device.type != "cuda":
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._sizes:
            return
        self._sizes[key] = size
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self.held -= self._sizes.pop(key, 0)

    def _wait(self, what: str) -> None:
        self.syncs[f"{what} at {_where()}"] += 1


def _where() -> str:
    """The innermost line of our code, else of transformers'."""
    frame, other = sys._getframe(1), "?"
    while frame is not None:
        file = frame.f_code.co_filename
        if "/palimpsest/" in file:
            return f"{file.rpartition('/palimpsest/')[2]}:{frame.f_lineno}"
        if other == "?" and "/transformers/" in file:
            other = f"{file.rpartition('/transformers/')[2]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return other
