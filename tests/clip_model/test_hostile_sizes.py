"""Files that would take all memory, or for ever: each is refused within bounds, by one error.

They are made here and loaded by `load_within_limits`, where the system holds each to its bounds.
"""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import clip_model
from tests.clip_model.test_checkpoint_formats import VIT, random_model
from tests.clip_model.test_hostile_checkpoints import archive, module_pickle, storage_id

TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n("
HOOKS = b"\x89ccollections\nOrderedDict\n)RtR"
LONGEST = 2_500  # characters of an error
STATE = random_model(VIT).state_dict()


def doubled(times: int = 60) -> bytes:
    """A tuple of two of the tuple before, and so on: 2**60 values in 300 bytes."""
    return b")" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(times))


def deep(depth: int) -> bytes:
    return b")" + b"\x85" * depth


def pickled_key(key: bytes) -> bytes:
    return b"\x80\x02}" + key + b"K\x01s."


def torch_zip(path: Path, data: bytes) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name, record in {"data.pkl": data, "version": b"3\n", "byteorder": b"little"}.items():
            file.writestr(f"m/{name}", record)


def script(data: bytes, storage: bytes = b"") -> Callable[[Path], Any]:
    return lambda path: archive(path, {"m/data.pkl": data, "m/data/0": storage})


def saved(**changes: Any) -> Callable[[Path], Any]:
    return lambda path: torch.save(
        STATE | {name.replace("__", "."): value for name, value in changes.items()}, path
    )


def header(fields: Any, data: bytes = b"") -> Callable[[Path], Any]:
    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return lambda path: path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def own(section: str = "", **fields: Any) -> Callable[[Path], Any]:
    """This project's own file with another architecture written into it."""
    config = VIT.to_dict()
    (config[section] if section else config).update(fields)
    return own_text(json.dumps(config))


def own_text(text: str) -> Callable[[Path], Any]:
    return lambda path: save_file(STATE, path, {"clip_model.config": text})


def many_clones(path: Path) -> None:
    count = 1 << 20
    whole = b"J" + struct.pack("<i", count) + b"\x85"
    tensor = TENSOR + storage_id(count=count) + b"K\x00" + whole + b"K\x01\x85" + HOOKS
    views = b"".join(b"X\x04\x00\x00\x00%04d" % i + tensor for i in range(1000))
    data = b"\x80\x02c__torch__\nM\n)\x81}(" + views + b"ub."
    archive(path, {"m/data.pkl": data, "m/data/0": bytes(4 * count)})


def compressed(path: Path) -> None:
    stream = io.BytesIO()
    torch.save(STATE | {"token_embedding.weight": torch.zeros(1 << 24)}, stream)
    with zipfile.ZipFile(stream) as file, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name in file.namelist():
            out.writestr(name, file.read(name))


def sparse(start: bytes, size: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            file.write(start)
            file.truncate(size)

    return write


def many_records(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for number in range(60_000):
            file.writestr(f"m/data/{number}{'x' * 40}", b"")


def text_of_a_million(path: Path) -> None:
    save_file({"x" * 1_000_000: torch.ones(1), "token_embedding.weight": torch.ones(1)}, path)


def folder(config: str, kind: str = "hugging_face") -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        model = random_model(replace(VIT))
        clip_model.save(model, path, kind)  # type: ignore[arg-type]
        name = "config.json" if kind == "hugging_face" else "open_clip_config.json"
        if kind == "open_clip":
            save_file(STATE, path / "open_clip_model.safetensors")  # without what we say in it
        (path / name).write_text(config)

    return write


def index(text: str) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        path.mkdir()
        (path / "config.json").write_text("{}")
        (path / "model.safetensors.index.json").write_text(text)

    return write


NO_TENSOR = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
NAN, HUGE = float("nan"), 10**12
CASES: dict[str, Callable[[Path], Any]] = {
    # structures that share their parts, or are deep
    "key doubled": script(pickled_key(doubled())),
    "key deep": script(pickled_key(deep(400_000))),
    "key doubled, torch.save": lambda path: torch_zip(path, pickled_key(doubled())),
    "key deep, torch.save": lambda path: torch_zip(path, pickled_key(deep(400_000))),
    "key doubled, old file": lambda path: path.write_bytes(pickled_key(doubled())),
    "key deep, old file": lambda path: path.write_bytes(pickled_key(deep(400_000))),
    "very deep": script(pickled_key(deep(5_000_000))),
    "shape doubled": script(
        module_pickle(TENSOR + storage_id() + b"K\x00" + doubled() + b"K\x01\x85" + HOOKS),
        bytes(16),
    ),
    "storage key doubled": script(
        module_pickle(
            b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
            + doubled()
            + b"X\x03\x00\x00\x00cpuK\x04tQ"
        )
    ),
    "long name": script(b"\x80\x02c" + b"x" * (1 << 20) + b"\ny\n."),
    "content deep": lambda path: torch_zip(path, b"\x80\x02" + deep(400_000) + b"."),
    # more in memory than in the file
    "many clones": many_clones,
    "stride 0": saved(token_embedding__weight=torch.zeros(1).half().expand(30_000, 100_000)),
    "stride 0, huge": saved(token_embedding__weight=torch.zeros(1).expand(10**7, 10**6)),
    "no memory": saved(token_embedding__weight=torch.empty(10**7, 10**6, device="meta")),
    "compressed": compressed,
    "header's length": sparse(struct.pack("<Q", 2 << 30) + b'{"a":', (2 << 30) + 8),
    "nothing, large": sparse(b"", 1 << 34),
    "a zip without end": sparse(b"PK\x03\x04", 8 << 30),
    "shape": header(
        {"a": {"dtype": "F32", "shape": [1 << 40, 1 << 20], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "header deep": header(b'{"__metadata__":' + b"[" * (10 << 20)),
    "many names": header({f"transformer.resblocks.{i}.x": NO_TENSOR for i in range(100_000)}),
    "many records": many_records,
    "a name of a million": text_of_a_million,
    # architectures
    "layers": own("text", layers=10**9),
    "layers that sum to 4": own(
        vision={"kind": "resnet", "layers": [-(10**7), 10**7, 2, 2], "width": 8}
    ),
    "a ResNet's layers, three": own(vision={"kind": "resnet", "layers": [1, 1, 1], "width": 8}),
    "layers below 0": own("vision", layers=-1),
    "patch 0": own("vision", patch_size=0),
    "width, text": own("text", width="big"),
    "width": own("vision", width=HUGE),
    "width, true": own("vision", width=True),
    "heads 0": own("text", heads=0),
    "heads 7": own("text", heads=7),
    "heads below 0": own("text", heads=-2),
    "context": own("text", context_length=10**6),
    "resolution": own(image_resolution=10**9),
    "resolution below 0": own(image_resolution=-1),
    "embed NaN": own(embed_dim=NAN),
    "embed, a list": own(embed_dim=[1]),
    "gelu, a text": own(quick_gelu="no"),
    "gelu, a number": own(quick_gelu=0),
    "vision, a list": own(vision=[1]),
    "vision, none": own(vision=None),
    "vision, nothing": own(vision={}),
    "of timm's, large": own(vision={"kind": "timm", "name": "vit_7b_patch16_dinov3"}),
    "of timm's, none": own(vision={"kind": "timm", "name": "x" * 100}),
    "of timm's, from afar": own(vision={"kind": "timm", "name": "hf-hub:some/one"}),
    "of timm's, a list": own(vision={"kind": "timm", "name": ["test_vit"]}),
    "of timm's, large images": own_text(
        json.dumps(
            VIT.to_dict()
            | {"vision": {"kind": "timm", "name": "test_convnext"}, "image_resolution": 1 << 20}
        )
    ),
    "of timm's, images of no patch": own_text(
        json.dumps(
            VIT.to_dict() | {"vision": {"kind": "timm", "name": "test_vit"}, "image_resolution": 1}
        )
    ),
    "mean, a number": own(mean=0.5),
    "std 0": own(std=[0, 0, 0]),
    "std NaN": own(std=[NAN, NAN, NAN]),
    "causal, a number": own("text", causal=0),
    "a key nobody knows": own("text", rotary=True),
    "architecture deep": own_text("[" * 200_000),
    "architecture, a list": own_text("[1]"),
    "architecture of digits": own_text("9" * 5000),
    # weights
    "NaN": lambda path: torch.save(
        {n: t * NAN if t.is_floating_point() else t for n, t in STATE.items()}, path
    ),
    "one infinity": saved(ln_final__bias=torch.full((128,), torch.inf)),
    "temperature": saved(logit_scale=torch.tensor(1e30)),
    "two temperatures": saved(logit_scale=torch.zeros(2)),
    "whole numbers": saved(ln_final__weight=torch.ones(128, dtype=torch.int64)),
    "complex numbers": saved(ln_final__weight=torch.ones(128, dtype=torch.complex64)),
    "a patch of 0": saved(visual__conv1__weight=torch.zeros(64, 3, 0, 0)),
    "a width of 0": saved(visual__conv1__weight=torch.zeros(0, 3, 8, 8)),
    "a text width of 0": saved(ln_final__weight=torch.zeros(0)),
    "a scalar": saved(ln_final__weight=torch.tensor(1.0)),
    # indices
    "index of lists": index('{"weight_map": {"x": ["a"]}}'),
    "index of numbers": index('{"weight_map": {"x": 1, "y": "a"}}'),
    "index of nothing": index('{"weight_map": {"x": ""}}'),
    "index with a zero byte": index('{"weight_map": {"x": "a\\u0000b"}}'),
    "index of a long name": index(json.dumps({"weight_map": {"x": "a" * 100_000}})),
    "index deep": index("[" * 300_000),
    "index of itself": index('{"weight_map": {"x": "model.safetensors.index.json"}}'),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("hostile")
    for name, write in CASES.items():
        write(root / name)
    command = [sys.executable, "-m", "tests.clip_model.load_within_limits", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_within_bounds(name, outcomes) -> None:
    said = outcomes[name]
    assert said.startswith(("RuntimeError: ", "UnsafeCheckpointError: ")), said[:500]
    assert "allocate" not in said  # PyTorch's own error when the memory ends
    assert len(said) < LONGEST
