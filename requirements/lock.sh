#!/bin/sh
# Pins the dependencies of setup.py with hashes, for every system and Python from 3.11 on: `make lock`.
# What builds packages (build.txt), what tests and checks need (dev.txt), and at dev's versions the part that running needs
# (run.txt) and the oracles besides (parity.txt).
set -eu
cd "$(dirname "$0")/.."
UV=${UV:-uv}
command -v "$UV" >/dev/null || { echo "error: uv is needed to write the locks (pip install uv)" >&2; exit 2; }

compile() { # NAME, then arguments
    name=$1
    shift
    echo "requirements/$name.txt"
    "$UV" pip compile --quiet --no-config setup.py requirements/tools.in --overrides requirements/overrides.in \
        --universal --python-version 3.11 --generate-hashes \
        --default-index https://pypi.org/simple --no-emit-index-url --no-annotate --upgrade \
        --custom-compile-command "make lock" --output-file "requirements/$name.txt" --extra cpu --extra data "$@"
}

echo setuptools | "$UV" pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --upgrade \
    --default-index https://pypi.org/simple --no-emit-index-url --no-annotate --custom-compile-command "make lock" \
    --output-file requirements/build.txt -
compile dev --extra test --extra dev
compile run --constraint requirements/dev.txt
compile parity requirements/parity.in --constraint requirements/dev.txt --extra test --extra dev --extra parity
