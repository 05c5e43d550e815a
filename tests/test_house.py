"""The rules of the house that a machine can check: who imports whom, names, sizes, docstrings, dangerous calls."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "portrait_jax"
PACKAGES = ("portrait_jax", "configs", "data", "launch")
NEUTRAL_ROOMS = ("nn", "backbones", "diffusion", "long_video")
MODEL_ROOMS = (
    *NEUTRAL_ROOMS, "autoencoders", "encoders", "adapters", "adversarial", "motion", "systems", "training", "sharding",
)  # fmt: skip
SYSTEMS = re.compile(
    r"follow[\s_-]*your[\s_-]*emoji|x[\s_-]?nemo|any[\s_-]?express|hallo[\s_-]?3|hunyuan[\s_-]?portrait", re.IGNORECASE
)
FOREIGN = ("torch", "tensorflow", "mediapipe", "grain", "av", "cv2", "PIL", "tensorflow_datasets", "transformers")
# Third-party packages that model rooms may name, and the single files that may name one more.
ALLOWED = {"jax", "flax", "optax", "einops", "numpy", "jaxtyping"}
ALLOWED_IN = {
    "training/checkpoints.py": {"orbax"},
    "training/params.py": {"ml_dtypes", "safetensors"},
}
MAX_LINES = 400


def python_files(*packages: str) -> list[Path]:
    return sorted(path for name in packages for path in (ROOT / name).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def is_type_checking(test: ast.expr) -> bool:
    return (test.id if isinstance(test, ast.Name) else getattr(test, "attr", "")) == "TYPE_CHECKING"


def imports(node: ast.AST) -> Iterator[str]:
    """Yields the full names of what a module imports anywhere, but for blocks that only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and is_type_checking(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.level == 0:
            yield child.module or ""
        yield from imports(child)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.fixture(scope="module")
def loaded() -> dict:
    """After importing every model room and the training loop: foreign packages that came along, and whether a backend runs."""
    modules = [module_name(path) for room in MODEL_ROOMS for path in sorted((LIBRARY / room).rglob("*.py"))]
    assert len(modules) > len(MODEL_ROOMS)
    program = (
        "import importlib, json, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "from jax._src import xla_bridge\n"
        f"foreign = [name for name in {FOREIGN!r} if name in sys.modules]\n"
        "print(json.dumps({'foreign': foreign, 'backends': xla_bridge.backends_are_initialized()}))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_model_rooms_load_no_torch_no_media_and_no_data_libraries(loaded):
    assert loaded["foreign"] == []


def test_importing_the_library_starts_no_jax_backend(loaded):
    assert loaded["backends"] is False


@pytest.mark.parametrize("room", MODEL_ROOMS)
def test_model_rooms_name_only_the_allowed_packages(room):
    wrong = []
    for path in sorted((LIBRARY / room).rglob("*.py")):
        allowed = ALLOWED | ALLOWED_IN.get(path.relative_to(LIBRARY).as_posix(), set()) | {"portrait_jax"}
        roots = {name.split(".")[0] for name in imports(parsed(path))}
        wrong += [f"{relative(path)}: {name}" for name in sorted(roots - allowed - sys.stdlib_module_names)]
    assert wrong == []


def test_no_file_is_allowed_a_package_that_it_does_not_import():
    found = {name: {full.split(".")[0] for full in imports(parsed(LIBRARY / name))} for name in ALLOWED_IN}
    assert {name: sorted(allowed - found[name]) for name, allowed in ALLOWED_IN.items() if allowed - found[name]} == {}


def test_the_library_never_imports_data_launch_configs_or_tests():
    forbidden = {"data", "launch", "configs", "tests"}
    wrong = [
        f"{relative(path)}: {name}"
        for path in python_files("portrait_jax")
        for name in imports(parsed(path))
        if name.split(".")[0] in forbidden
    ]
    assert wrong == []


def test_configs_hold_numbers_and_import_no_program():
    wrong = [
        f"{relative(path)}: {name}"
        for path in python_files("configs")
        for name in imports(parsed(path))
        if name.split(".")[0] in {"launch", "data", "tests"}
    ]
    assert wrong == []


@pytest.mark.parametrize("room", NEUTRAL_ROOMS)
def test_neutral_rooms_name_no_system(room):
    files = sorted((LIBRARY / room).rglob("*.py"))
    assert files
    wrong = [
        f"{relative(path)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if SYSTEMS.search(line) or SYSTEMS.search(path.name)
    ]
    assert wrong == []


def test_no_file_is_too_long_to_be_read_in_one_sitting():
    counts = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in python_files(*PACKAGES)}
    assert {name: n for name, n in counts.items() if n > MAX_LINES} == {}


def test_every_module_says_what_it_is():
    wrong = [
        relative(path)
        for path in python_files(*PACKAGES, "tests")
        if path.read_text(encoding="utf-8").strip() and not ast.get_docstring(parsed(path))
    ]
    assert wrong == []


def undocumented(path: Path) -> Iterator[str]:
    """Yields the public functions and classes of a module that have no docstring."""
    for node in parsed(path).body:
        public = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
        if public and not ast.get_docstring(node):
            yield f"{relative(path)}:{node.lineno}: {node.name}"


def test_every_public_function_and_class_of_the_library_has_a_docstring():
    assert [name for path in python_files("portrait_jax", "data") for name in undocumented(path)] == []


def dangerous_calls(path: Path) -> Iterator[str]:
    """Yields calls that run what a file says: eval, exec, pickle, and loads that allow pickles."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            bad = {"pickle", "dill", "cloudpickle", "marshal", "shelve"} & {name.split(".")[0] for name in names}
            yield from (f"{relative(path)}:{node.lineno}: imports {name}" for name in sorted(bad))
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in {"eval", "exec"}:
            yield f"{relative(path)}:{node.lineno}: {node.func.id}"
        for keyword in node.keywords:
            said = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
            if (keyword.arg, said) in {("allow_pickle", True), ("weights_only", False), ("shell", True)}:
                yield f"{relative(path)}:{node.lineno}: {keyword.arg}={said}"


def test_nothing_unpickles_evaluates_or_calls_a_shell():
    assert [call for path in python_files(*PACKAGES) for call in dangerous_calls(path)] == []


def repository_texts() -> list[Path]:
    """The text files that git tracks, or would."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git repository")
    endings = {".py", ".md", ".toml", ".txt", ".in", ".sh", ".yaml", ".json", ".ipynb", ""}
    return [
        ROOT / name for name in done.stdout.splitlines() if Path(name).suffix in endings and (ROOT / name).is_file()
    ]


def test_no_file_holds_a_path_of_somebodys_machine():
    home = re.compile(r"(?<![\w.~/])/(?:work|root|home|Users)/\w")
    wrong = [
        f"{relative(path)}:{number}: {line.strip()[:100]}"
        for path in repository_texts()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if home.search(line)
    ]
    assert wrong == []


@pytest.mark.parametrize("lock", ["build", "dev", "run", "parity"])
def test_locks_pin_hashes_and_hold_no_torch_no_tensorflow_and_no_cuda(lock):
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    pins = re.findall(r"^([A-Za-z0-9._-]+)==\S+.*((?:\n    --hash=sha256:[0-9a-f]{64}.*)+)", text, re.MULTILINE)
    requirements = [line for line in text.splitlines() if re.match(r"[A-Za-z0-9]", line)]
    assert len(pins) == len(requirements) > 0
    names = {name.lower() for name, _ in pins}
    assert not names & {"torch", "torchvision", "tensorflow", "tensorflow-cpu", "opencv-contrib-python", "libtpu"}
    assert not [name for name in names if re.search(r"nvidia|cuda|triton", name)]
    assert not re.search(r"https?://|file:|--(extra-)?index-url|--find-links| @ ", text)


def test_everything_needed_to_run_has_the_version_that_was_tested():
    def pins(name: str) -> set[str]:
        lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
        return {line.split(";")[0].rstrip("\\ ") for line in lines if "==" in line and line[0].isalnum()}

    assert pins("run") < pins("dev") < pins("parity")


def test_no_test_is_named_for_what_it_calls_only():
    wrong = [
        f"{relative(path)}: {node.name}"
        for path in python_files("tests")
        for node in parsed(path).body
        if isinstance(node, ast.FunctionDef) and re.fullmatch(r"test_[a-z0-9]*", node.name)
    ]
    assert wrong == []
