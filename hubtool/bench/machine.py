"""What figures were measured on, and how they are written: the processor, its memory, and the
version of every library, without which a time says nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hubtool import cores

__all__ = ["facts", "milliseconds", "sentence"]

PACKAGES = ("numpy", "onnx", "onnxruntime", "openvino", "torch", "jax", "jaxlib")


def facts() -> dict[str, Any]:
    """The machine, how busy it is, and what is installed."""
    return {
        "cpu": _cpu(),
        "cores": cores.usable(),
        "memory": _memory(),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "hubtool": _hubtool(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def sentence(machine: dict[str, Any]) -> str:
    """The facts on one line."""
    memory = f", {machine['memory'] / 2**30:.0f} GiB" if machine["memory"] else ""
    libraries = {"hubtool": machine["hubtool"], **machine["packages"]}
    return (
        f"{machine['cpu']}, {machine['cores']} cores{memory}, load {machine['load']};"
        f" {machine['system']}, Python {machine['python']}; "
        + ", ".join(f"{name} {found}" for name, found in libraries.items())
    )


def milliseconds(seconds: float, digits: int = 4) -> str:
    """Seconds as milliseconds, with so many digits at least."""
    time = 1e3 * seconds
    return f"{time:.{digits}g}" if time < 10 ** (digits - 1) else f"{time:,.0f}"


def _cpu() -> str:
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        for line in listed.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _hubtool() -> str:
    """The version; in a working copy also the commit, and whether it was changed since."""
    from hubtool import __version__

    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return __version__
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__} ({done.stdout.strip()})"
