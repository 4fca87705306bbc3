import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from actors.catalogue import ModelFilesError
from actors.safetensors_header import read_tensors
from tests.support.model_folders import crafted, tensor

BYTES = bytes(8)
NUMBERS = st.one_of(st.integers(-1, 40), st.sampled_from([2**31, 2**63, 2**64, 10**30]), st.floats(allow_nan=False))
TENSOR = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "U8", "F4", "BOOL", "X", ""]),
        "shape": st.lists(NUMBERS, max_size=3),
        "data_offsets": st.lists(NUMBERS, min_size=1, max_size=3),
    }
)


@pytest.mark.parametrize(
    ("header", "data"),
    [
        pytest.param({"a": tensor(0, 8, 2)}, bytes(7), id="truncated"),
        pytest.param({"a": tensor(0, 8, 2)}, bytes(9), id="longer than its tensors"),
        pytest.param({"a": tensor(8, 16, 2)}, BYTES, id="beyond the file"),
        pytest.param({"a": tensor(0, 8, 2), "b": tensor(16, 24, 2)}, bytes(24), id="a hole"),
        pytest.param({"a": tensor(0, 8, 2), "b": tensor(4, 12, 2)}, bytes(12), id="two that overlap"),
        pytest.param({"a": tensor(0, 8, 3)}, BYTES, id="shape and span differ"),
        pytest.param({"a": tensor(8, 0, 2)}, BYTES, id="ends before it begins"),
        pytest.param({"a": tensor(0, 8, 2**62, 8)}, BYTES, id="a product that overflows"),
        pytest.param({"a": tensor(0, 8, 2**70)}, BYTES, id="a huge number"),
        pytest.param({"a": tensor(0, 8, -2)}, BYTES, id="a negative number"),
        pytest.param({"a": tensor(0, 8, 2, dtype="F33")}, BYTES, id="an unknown type"),
        pytest.param({"a": [1]}, BYTES, id="no tensor"),
        pytest.param(b"[1]", b"", id="no object"),
        pytest.param(b"{nope", b"", id="no JSON"),
        pytest.param(b'{"\xff": 1}', b"", id="no UTF-8"),
        pytest.param(b'{"a":' * 100_000, b"", id="nested too deep"),
    ],
)
def test_file_that_is_not_whole_is_refused_by_name(tmp_path: Path, header: Any, data: bytes) -> None:
    file = crafted(tmp_path / "bad.safetensors", header, data)

    with pytest.raises(ModelFilesError, match=r"bad\.safetensors is damaged: "):
        read_tensors(file)


@pytest.mark.parametrize("length", [0, 9, 10**9, 2**63, 2**64 - 1])
def test_wrong_length_of_the_header_is_refused(tmp_path: Path, length: int) -> None:
    file = crafted(tmp_path / "bad.safetensors", {"a": tensor(0, 8, 2)}, BYTES, length)

    with pytest.raises(ModelFilesError, match=r"bad\.safetensors"):
        read_tensors(file)


@given(st.dictionaries(st.text(max_size=3), TENSOR, max_size=4), st.binary(max_size=64))
def test_any_header_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, header: Any, data: bytes) -> None:
    file = crafted(tmp_path_factory.getbasetemp() / "any.safetensors", header, data)

    try:
        tensors = read_tensors(file)
    except ModelFilesError:
        return

    assert sum(each.size_bytes for each in tensors.values()) == len(data)


@given(st.binary(max_size=200))
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.safetensors"
    file.write_bytes(content)

    try:
        tensors = read_tensors(file)
    except ModelFilesError:
        return

    assert sum(each.size_bytes for each in tensors.values()) < len(content)


def test_whole_file_tells_types_and_shapes(tmp_path: Path) -> None:
    file = tmp_path / "good.safetensors"
    arrays = {"a": np.zeros((2, 3), np.float16), "b": np.zeros((), np.uint32), "c": np.zeros((0, 4), np.bool_)}
    save_file(arrays, file)

    tensors = read_tensors(file)

    assert {name: (*each, each.size, each.size_bytes) for name, each in tensors.items()} == {
        "a": ("F16", (2, 3), 6, 12),
        "b": ("U32", (), 1, 4),
        "c": ("BOOL", (0, 4), 0, 0),
    }


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")

    for name in ("pipe.safetensors", "absent.safetensors", "."):
        with pytest.raises(ModelFilesError, match="no such file"):
            read_tensors(tmp_path / name)


def test_header_of_many_tensors_is_read(tmp_path: Path) -> None:
    header = {f"experts.{number}": tensor(4 * number, 4 * number + 4, 1) for number in range(5000)}

    assert len(read_tensors(crafted(tmp_path / "many.safetensors", json.dumps(header).encode(), bytes(20_000)))) == 5000
