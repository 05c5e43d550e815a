"""Makes `.venv` and installs one hashed lock and this package into it, showing one quiet line of progress.

    python3 requirements/install.py run     # or dev, or parity

Called by the Makefile, with the standard library only. All of pip's words go to `.venv/install.log`; its last lines
are shown when it fails. Running it again is quick and changes nothing.
"""

import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOG = VENV / "install.log"
TICK_S = 0.5
PLAIN_LINE_EVERY_S = 10.0
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
TORCH_HINT = (
    f"PyTorch's CPU build is needed from {TORCH_INDEX}, or from a folder with its wheel: set PIP_FIND_LINKS to it. "
    "An environment of your own with the extra `parity` will do, too: python -m pytest -m parity tests/parity"
)


def fail(message: str) -> None:
    """Ends with `message` and status 2."""
    sys.stdout.flush()
    sys.exit(print(f"error: {message}", file=sys.stderr) or 2)


def make_venv() -> None:
    """Creates `.venv`, or makes it anew if its Python is gone or is another minor version than this one."""
    wanted = f"{sys.version_info.major}.{sys.version_info.minor}"
    ask = "import pip, sys; print('%d.%d' % sys.version_info[:2])"
    try:
        found = subprocess.run([PYTHON, "-c", ask], capture_output=True, text=True).stdout.strip()
    except OSError:
        found = ""
    if found == wanted:
        return
    print(f"Making .venv with Python {wanted} ...", flush=True)
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], capture_output=True, text=True)
    if made.returncode:
        hint = f"on Debian and Ubuntu: sudo apt install python{wanted}-venv"
        fail(f"Python's venv module could not make .venv ({hint})\n{made.stdout}{made.stderr}")


def applicable(lock: Path) -> int:
    """Counts the packages of `lock` whose markers hold for the Python in `.venv`."""
    lines = [line.rstrip(" \\\n") for line in lock.read_text().splitlines() if re.match(r"[A-Za-z0-9]", line)]
    markers = [line.partition(";")[2].strip() or "python_version > '3'" for line in lines]
    program = (
        "import sys; from pip._vendor.packaging.markers import Marker;"
        "print(sum(Marker(line).evaluate() for line in sys.stdin.read().splitlines()))"
    )
    done = subprocess.run([PYTHON, "-c", program], input="\n".join(markers), capture_output=True, text=True)
    return int(done.stdout) if done.returncode == 0 else len(lines)


def lines_of(process: subprocess.Popen) -> Iterator[str]:
    """Yields the process's lines as they come, and an empty one every half second of silence."""
    lines: queue.Queue = queue.Queue()

    def read() -> None:
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=TICK_S)
        except queue.Empty:
            line = ""
        if line is None:
            return
        yield line


class Progress:
    """One line that is rewritten on a terminal, and printed every ten seconds elsewhere."""

    def __init__(self, total: int):
        self.total, self.done, self.doing = total, 0, "asking the package index"
        self.writing, self.before = False, self.written()
        self.start = self.printed = time.monotonic()

    @staticmethod
    def written() -> int:
        """Counts the packages that are there by now."""
        return sum(1 for _ in VENV.glob("lib/python*/site-packages/*.dist-info"))

    def read(self, line: str) -> None:
        """Takes what a line of pip's says."""
        collecting = re.match(
            r"(?:Collecting|Processing|Requirement already satisfied:) (\S+?)(?:==(\S+))?(?: |$)", line
        )
        size = re.match(r"\s+(?:Downloading|Using cached) \S+ \((.+?)\)", line)
        if collecting:
            self.done += 1
            self.doing = " ".join(filter(None, collecting.groups())).split("/")[-1]
        elif size:
            self.doing = f"{self.doing.split(' (')[0]} ({size.group(1)})"
        elif line.startswith("Installing collected packages"):
            self.writing = True

    def show(self, last: bool = False) -> None:
        """Draws the line if it is time to."""
        now = time.monotonic()
        if self.writing:
            self.doing = f"writing package {self.written() - self.before}"
        text = f"  [{min(self.done, self.total):3d}/{self.total}] {now - self.start:4.0f} s  {self.doing}"
        if sys.stdout.isatty():
            print(f"\r{text[:99]:<100}", end="\n" if last else "", flush=True)
        elif last or now - self.printed > PLAIN_LINE_EVERY_S:
            self.printed = now
            print(text, flush=True)


def pip(arguments: list[str], total: int, hint: str = "") -> None:
    """Runs `pip install` in `.venv`, with progress if `total` packages are many; ends the program if pip fails."""
    command = [PYTHON, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--progress-bar", "off"]
    process = subprocess.Popen(
        [*command, *arguments], cwd=ROOT, text=True, errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    progress, tail = Progress(total), []
    with LOG.open("a", encoding="utf-8") as log:
        for line in lines_of(process):
            log.write(line)
            tail = [*tail, line][-15:] if line else tail
            progress.read(line)
            if total > 1:
                progress.show()
    if process.wait():
        print()
        fail(f"pip could not install (all it said: {LOG.relative_to(ROOT)}):\n{''.join(tail)}{hint}")
    if total > 1:
        progress.doing, progress.writing = "done", False
        progress.show(last=True)


def main(name: str) -> None:
    """Installs `requirements/NAME.txt`, then this package, which needs no network."""
    make_venv()
    LOG.write_text("")
    total = applicable(ROOT / "requirements" / f"{name}.txt")
    print(f"Installing {total} pinned packages into .venv ...", flush=True)
    # The locks are complete, so nothing is resolved: pip takes these files with these hashes, or fails. What is there
    # only as source is built with the pinned tools as well.
    pinned = ["--no-deps", "--require-hashes", "--no-build-isolation", "--use-pep517", "-r"]
    pip([*pinned, "requirements/build.txt"], 1)
    pip([*pinned, f"requirements/{name}.txt"], total)
    if name == "parity":
        print("Installing PyTorch for the CPU (about 200 MB) ...", flush=True)
        apart = ["--no-deps", "--index-url", TORCH_INDEX, "--retries", "1", "-r", "requirements/torch.txt"]
        pip(apart, 1, TORCH_HINT)
    pip(["--no-deps", "--no-build-isolation", "--no-index", "--editable", "."], 1)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        fail("say which lock: python3 requirements/install.py run|dev|parity")
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:
        print()
        sys.exit(130)
