# Commands of the project. `just` is in the rust-just package on PyPI; uv beside it or on the PATH.
export PATH := parent_directory(just_executable()) + ":" + env("PATH")

# list the commands
default:
    @just --list

# the environment, as locked
setup:
    uv sync --locked

# start everything on the embedded models, take the tour, stop
demo: setup
    uv run --no-sync fusion demo

# serve, with everything that Fusion brings along
dev *arguments:
    uv run fusion up --embedded {{ arguments }}

# rebuild the history from the log
replay *arguments:
    uv run fusion replay {{ arguments }}

# the JSON schema of the events, in the docs
schemas:
    uv run --no-sync python -m eventlog.schema > docs/events/schema.json

# format and repair
fix:
    uv run ruff format .
    uv run ruff check --fix .

# all that is checked before a commit; tests that have passed on these very files are not run again
check: lint types imports tested

lint:
    uv run ruff format --check .
    uv run ruff check .

types:
    uv run mypy

imports:
    uv run lint-imports

# all tests, in several processes, or those of the arguments
test *arguments:
    uv run pytest {{ if arguments == "" { all } else { arguments } }}
    @[ -n "{{ arguments }}" ] || {{ files }} > .venv/tests-passed

# all tests, unless they have passed on these very files
tested:
    @{{ files }} | cmp -s - .venv/tests-passed && echo "The tests have passed on these files." || just test

# each file as a whole in one process, on as many cores as there are, up to 4
all := "-n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder"

# a digest of all files that are not ignored
files := "git ls-files -coz --exclude-standard | sort -z | xargs -0 sha256sum | sha256sum"

test-engines:
    uv run pytest tests/engines

test-faults:
    uv run pytest tests/faults

# Fusion beside mlx_lm.server: one model folder, and what `python -m bench.chat --help` tells
bench *arguments:
    uv run python -m bench.chat {{ arguments }}

# how fast the history is rebuilt and answers
bench-history *arguments:
    uv run python -m bench.history {{ arguments }}

# what bus and edge cost
bench-edge *arguments:
    uv run python -m bench.edge {{ arguments }}

# Fusion's embeddings beside sentence-transformers and infinity: what `python -m bench.embeddings --help` tells
bench-embeddings *arguments:
    uv run python -m bench.embeddings {{ arguments }}

# how well documents are found, and how fast beside Chroma and LanceDB: what `python -m bench.rag_speed --help` tells
bench-rag *arguments:
    uv run python -m bench.rag_quality
    uv run python -m bench.rag_speed {{ arguments }}
