"""The house keeps its order: who imports whom, who owns a third party, what a name promises."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import hubtool

ROOT = Path(hubtool.__file__).parent

# Downwards only; rooms on one line are siblings, which do not import each other.
RANKS = [
    {"errors"},
    {"cores", "dtypes", "files"},
    {"cache"},
    {"graph"},
    {"ops"},
    {"interpreter"},
    {"meta"},
    {"passes"},
    {"formats", "backends"},
    {"feeds", "model"},
    {"verify"},
    {"bench", "convert", "export", "inspect", "training", "vision"},
    {"hub"},
    {"zoo"},
    {"api"},
    {"publish"},
    {"cli"},
    {"__main__"},
]
EXCEPTIONS = {("backends.onnxruntime", "formats"), ("backends.openvino", "formats")}
DOORS: dict[str, str | tuple[str, ...]] = {
    "onnx": "formats/onnx/",
    "onnxruntime": "backends/onnxruntime.py",
    "openvino": "backends/openvino.py",
    "torch": "backends/torch",
    "jax": "backends/xla",
    "click": "cli/",
    "rich": "cli/output.py",
    "matplotlib": "bench/picture.py",
    "PIL": ("vision.py", "ops/resize.py"),
    "huggingface_hub": "hub/",
    "httpx2": "hub/",
    "starlette": "hub/server/",
    "uvicorn": "hub/server/",
    "yaml": "hub/card_header.py",
    "jinja2": "hub/server/web/",
    "markdown_it": "hub/server/web/",
    "nh3": "hub/server/web/",
    "blake3": ("hub/server/xet_", "backends/native/kept.py"),
    "ctypes": (
        *("files.py", "backends/native/library.py"),
        *("backends/onnxruntime.py", "bench/worker.py"),  # the address of memory, no library
    ),
}


def modules() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written out in full"
            yield str(node.module)
            if node.module == "hubtool":
                yield from (f"hubtool.{alias.name}" for alias in node.names)


def rank(room: str) -> int:
    return next(index for index, rooms in enumerate(RANKS) if room in rooms)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    room = module.partition(".")[0]
    for name in imported(path):
        parts = name.split(".")
        if (
            parts[0] != "hubtool"
            or len(parts) == 1
            or not ((ROOT / parts[1]).exists() or (ROOT / f"{parts[1]}.py").exists())
        ):
            continue
        other = parts[1]
        if other != room and (module, other) not in EXCEPTIONS:
            assert rank(other) < rank(room), f"{module} imports {name}"


# In the hub too, downwards only.
HUB = [
    {"address", "card", "card_*"},
    {"server"},
    {"embedded", "care"},
    {"session"},
    {"download"},
    {"push", "pull", "search"},
]


@pytest.mark.parametrize("path", sorted((ROOT / "hub").rglob("*.py")), ids=lambda path: path.name)
def test_a_room_of_the_hub_imports_only_rooms_below_it(path: Path) -> None:
    def floor(room: str) -> int:
        return next(
            index
            for index, rooms in enumerate(HUB)
            if any(fnmatchcase(room, pattern) for pattern in rooms)
        )

    own = path.relative_to(ROOT / "hub").with_suffix("").parts[0]
    for name in imported(path):
        parts = name.split(".")
        if parts[:2] == ["hubtool", "hub"] and len(parts) > 2 and own != "__init__":
            other = parts[2]
            together = own.startswith("card") and other.startswith("card")
            assert other == own or together or floor(other) < floor(own), f"{own} imports {name}"


@pytest.mark.parametrize("library", DOORS)
def test_a_third_party_has_one_door(library: str) -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in modules()
        if any(name.partition(".")[0] == library for name in imported(path))
    }
    assert users, f"nobody imports {library}: the table of doors is out of date"
    assert all(user.startswith(DOORS[library]) for user in users), users


def test_import_hubtool_imports_nothing_heavy() -> None:
    code = "import hubtool, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "hubtool" in loaded
    assert not {"numpy", "torch", "jax", "onnx", "onnxruntime", "huggingface_hub"} & set(loaded)


def test_every_public_name_is_there_and_documented() -> None:
    assert len(set(hubtool.__all__)) == len(hubtool.__all__)
    for name in hubtool.__all__:
        assert (getattr(hubtool, name).__doc__ or "").strip(), name
    assert set(hubtool.__all__) <= set(dir(hubtool))


def test_an_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        hubtool.train  # noqa: B018


def test_public_functions_stay_functions_when_modules_of_their_name_are_imported() -> None:
    import hubtool.backends.numpy
    import hubtool.convert

    assert callable(hubtool.convert)
    assert [row["name"] for row in hubtool.backends()]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_which_room_it_is_and_what_it_offers(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "no docstring"
    names = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    if path.name not in ("__main__.py", "__init__.py"):
        registers = "ops" in path.parts or path.name.startswith("lower_")
        assert "__all__" in names or registers, "no __all__"
