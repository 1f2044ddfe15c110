"""Files that want more than to be read. None of them may run anything, whatever it is called.

Each payload would call `flag`, which leaves a file; or do something else that a test can see.
`test_payloads_are_live` proves that they work where pickles are trusted.
"""

from __future__ import annotations

import builtins
import copyreg
import functools
import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import clip_model
from clip_model.inert_pickle import UnsafeCheckpointError, read_pickle
from clip_model.torchscript_archive import read_torchscript
from tests.clip_model.test_checkpoint_formats import VIT, random_model

FLAG = "CLIP_MODEL_TEST_FLAG"  # an environment variable: where the flag would be


def flag(*arguments: object) -> None:
    """What a hostile file would have run."""
    Path(os.environ[FLAG]).touch()


@pytest.fixture(autouse=True)
def flag_path(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "flag"
    monkeypatch.setenv(FLAG, str(path))
    return path


class Reduce:
    def __reduce__(self) -> tuple[Any, ...]:
        return flag, ()


class ReduceEx:
    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        return flag, ("anything",)


class Eval:
    def __reduce__(self) -> tuple[Any, ...]:
        return builtins.eval, (f"open(__import__('os').environ['{FLAG}'], 'w')",)


class Exec:
    def __reduce__(self) -> tuple[Any, ...]:
        return builtins.exec, (f"open(__import__('os').environ['{FLAG}'], 'w')",)


class System:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f'touch "${FLAG}"',)  # pickled as posix.system


class Partial:
    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(flag, 1), (2,)


class SetState:
    """Its state goes to a function, the sixth part of `__reduce__`'s answer."""

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, (), {"x": 1}, None, None, set_state


def set_state(target: object, state: object) -> None:
    flag()


class Stateful:
    def __getstate__(self) -> dict[str, int]:
        return {"x": 1}

    def __setstate__(self, state: object) -> None:
        flag()


def payload(value: object, protocol: int = 2) -> bytes:
    return pickle.dumps(value, protocol)


def instructions(name: str, argument: str = "") -> bytes:
    """GLOBAL name; call it with nothing, or one text."""
    text = argument.encode()
    value = b"(X" + struct.pack("<I", len(text)) + text + b"t" if argument else b")"
    return b"\x80\x02c" + name.replace(" ", "\n").encode() + b"\n" + value + b"R."


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


THIS = __name__
TOUCH = f'touch "${FLAG}"'
LIVE: dict[str, Callable[[], bytes]] = {
    "reduce": lambda: payload(Reduce()),
    "reduce_ex": lambda: payload(ReduceEx()),
    "protocol 0": lambda: payload(Reduce(), 0),
    "protocol 5": lambda: payload(Reduce(), 5),
    "nested in a state dict": lambda: payload({"state_dict": {"a": [1, ({"b": Reduce()},)]}}),
    "key of a dictionary": lambda: b"\x80\x02}" + instructions(f"{THIS} flag")[2:-1] + b"K\x01s.",
    "eval": lambda: payload(Eval()),
    "exec": lambda: payload(Exec()),
    "posix.system": lambda: payload(System()),
    "os.system": lambda: instructions("os system", TOUCH),
    "subprocess": lambda: instructions("subprocess getoutput", TOUCH),
    "functools.partial": lambda: payload(Partial()),
    "setstate": lambda: payload(Stateful()),
    "state setter": lambda: payload(SetState(), 4),
    "INST": lambda: b"(S'" + TOUCH.encode() + b"'\nios\nsystem\n.",
    "OBJ": lambda: b"(cos\nsystem\nX" + struct.pack("<I", len(TOUCH)) + TOUCH.encode() + b"o.",
    "dotted name": lambda: (
        b"\x80\x04"
        + short("torch.serialization")
        + short("os.system")
        + b"\x93"
        + short(TOUCH)
        + b"\x85R."
    ),
    "stacked name": lambda: (
        b"\x80\x04" + short("os") + short("system") + b"\x93" + short(TOUCH) + b"\x85R."
    ),
    "after an ordinary tensor's name": lambda: (
        b"\x80\x02(ctorch._utils\n_rebuild_tensor_v2\ncos\nsystem\n(X"
        + struct.pack("<I", len(TOUCH))
        + TOUCH.encode()
        + b"tRl."
    ),
}

# Those that look as if they belonged to PyTorch: harmless for `pickle`, and still not to be run.
DISGUISED = {
    "torch.load": instructions("torch load", "/nonexistent"),
    "torch.jit.load": instructions("torch.jit load", "/nonexistent"),
    "torch.jit._script": instructions("torch.jit._script script"),
    "torch.hub": instructions("torch.hub load", "x/y"),
    "torch.storage": instructions("torch.storage _load_from_bytes", "x"),
    "storage of another module": instructions("evil FloatStorage"),
    "storage of another kind": instructions("torch EvilStorage"),
    "script class called": instructions("__torch__.Evil __init__"),
    "script name with a space": b"\x80\x02c__torch__.x\ny os.system\n)R.",
    "script name with dots": b"\x80\x02c__torch__.x\n..os.system\n)R.",
    "script name with a prefix": instructions("x__torch__.os system"),
    "ordered dict of arguments": b"\x80\x02ccollections\nOrderedDict\n(]tR.",
    "getattr": instructions("builtins getattr"),
    "other rebuild": instructions("torch._utils _rebuild_sparse_tensor"),
    "other rebuild of a type": instructions("torch._tensor _rebuild_from_type_v2"),
    "setting a name's state": b"\x80\x02c__torch__.M\nM\n}X\x01\x00\x00\x00xK\x01sb.",
    "object of a function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)\x81.",
    "call of a tuple": b"\x80\x02))R.",
    "extension 1": b"\x80\x02\x82\xf0)R.",
    "extension 2": b"\x80\x02\x83\xf0\x00)R.",
    "extension 4": b"\x80\x02\x84\xf0\x00\x00\x00)R.",
    "no end": b"\x80\x02}",
    "nothing on the stack": b"\x80\x02.",
    "unknown memo": b"\x80\x02h\x05.",
    "unhashable key": b"\x80\x02}]K\x01s.",
    "tuple of too few": b"\x80\x02K\x01\x87.",
    "text longer than the file": b"\x80\x02X\xff\xff\xff\x7fx.",
    "not a pickle": b"\x00\x01\x02",
}


def archive(path: Path, records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """A zip laid out like a TorchScript archive."""
    complete = {"m/constants.pkl": b"\x80\x02).", "m/version": b"3\n"} | records
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, record in complete.items():
            file.writestr(name, record)
    return path


def module_pickle(attributes: bytes) -> bytes:
    """A TorchScript module whose attribute "a" is what the instructions make."""
    return b"\x80\x02c__torch__\nM\n)\x81}X\x01\x00\x00\x00a" + attributes + b"sb."


def storage_id(kind: str = "torch\nFloatStorage", key: str = "0", count: int = 4) -> bytes:
    text = key.encode()
    return (
        b"(X\x07\x00\x00\x00storagec"
        + kind.encode()
        + b"\nX"
        + struct.pack("<I", len(text))
        + text
        + b"X\x03\x00\x00\x00cpuJ"
        + struct.pack("<i", count)
        + b"tQ"
    )


def tensor_pickle(storage: bytes, offset: int = 0, size: int = 4, stride: int = 1) -> bytes:
    number = b"J" + struct.pack("<i", offset)
    shape = b"J" + struct.pack("<i", size) + b"\x85J" + struct.pack("<i", stride) + b"\x85"
    return module_pickle(
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + number
        + shape
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


FOUR = struct.pack("<4f", 1, 2, 3, 4)


@pytest.mark.parametrize("name", LIVE)
def test_payloads_are_live(name, flag_path) -> None:
    """Or the other tests would prove nothing."""
    pickle.loads(LIVE[name]())
    assert flag_path.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", LIVE)
@pytest.mark.parametrize("kind", ["plain", "torch.save", "torchscript", "torchscript attribute"])
def test_payload_is_not_run(name, kind, tmp_path, flag_path) -> None:
    data, path = LIVE[name](), tmp_path / "model.pt"
    if kind == "plain":
        path.write_bytes(data)
    elif kind == "torch.save":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("m/data.pkl", data)
            file.writestr("m/version", "3\n")
            file.writestr("m/byteorder", "little")
    elif kind == "torchscript":
        archive(path, {"m/data.pkl": data})
    else:
        inner = data[2:-1] if data.startswith(b"\x80") else data[:-1]
        archive(path, {"m/data.pkl": module_pickle(inner)})
    with pytest.raises(RuntimeError):
        clip_model.load(path, device="cpu", quick_gelu=True)
    assert not flag_path.exists()


@pytest.mark.parametrize("name", [*LIVE, *DISGUISED])
def test_inert_pickle_refuses(name, flag_path) -> None:
    data = LIVE[name]() if name in LIVE else DISGUISED[name]
    with pytest.raises(UnsafeCheckpointError):
        read_pickle(data, lambda identity: None, lambda arguments: None)
    assert not flag_path.exists()


def test_extension_registry_is_not_consulted(flag_path) -> None:
    """An extension is a number that stands for a name, in a table of the process."""
    copyreg.add_extension(THIS, "flag", 240)
    try:
        pickle.loads(DISGUISED["extension 1"])
        assert flag_path.exists()
        flag_path.unlink()
        with pytest.raises(UnsafeCheckpointError, match="EXT1"):
            read_pickle(DISGUISED["extension 1"], lambda _: None, lambda _: None)
    finally:
        copyreg.remove_extension(THIS, "flag", 240)
    assert not flag_path.exists()


def test_payload_in_a_real_checkpoint(tmp_path, flag_path) -> None:
    """Every tensor is right, and one thing more is there."""
    state = random_model(VIT).state_dict()
    for number, content in enumerate([state | {"x": Reduce()}, {"state_dict": state, "x": Eval()}]):
        for zipped in (True, False):
            path = tmp_path / f"{number}{zipped}.pt"
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
            with pytest.raises(UnsafeCheckpointError, match="is not allowed"):
                clip_model.load(path, device="cpu", quick_gelu=True)
    assert not flag_path.exists()


def test_payload_in_a_shard_of_a_folder(tmp_path, flag_path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(payload(Reduce()))
    with pytest.raises(UnsafeCheckpointError):
        clip_model.load(tmp_path, device="cpu")
    (tmp_path / "pytorch_model.bin").unlink()
    index = '{"weight_map": {"x": "shard.safetensors"}}'
    (tmp_path / "model.safetensors.index.json").write_text(index)
    (tmp_path / "shard.safetensors").write_bytes(payload(Reduce()))
    with pytest.raises(UnsafeCheckpointError):
        clip_model.load(tmp_path, device="cpu")
    assert not flag_path.exists()


def test_pickle_under_the_name_of_a_safe_format(tmp_path, flag_path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(payload(Reduce()))
    with pytest.raises(RuntimeError):
        clip_model.load(path, device="cpu")
    path.write_bytes(struct.pack("<Q", 1 << 62) + b'{"a":1}')  # a header of any size
    with pytest.raises(RuntimeError):
        clip_model.load(path, device="cpu")
    save_file({"a": torch.ones(1)}, path, {"clip_model.config": '{"vision": {"kind": "x"}}'})
    with pytest.raises(RuntimeError, match="cannot be read"):
        clip_model.load(path, device="cpu")
    assert not flag_path.exists()


def test_program_of_an_archive_is_not_read(tmp_path) -> None:
    """Code that could not even be compiled changes nothing."""
    model = random_model(VIT)
    clip_model.save(model, tmp_path / "model.pt", "openai")
    records: dict[str, bytes] = {}
    with zipfile.ZipFile(tmp_path / "model.pt") as file:
        for name in file.namelist():
            records["m/" + name.split("/", 1)[1]] = file.read(name)
    records["m/constants.pkl"] = payload(Reduce())
    for name in records:
        if name.startswith("m/code/"):
            records[name] = b"import os; os.system('false')  # no TorchScript"
    archive(tmp_path / "changed.pt", records)
    changed, _ = clip_model.load(tmp_path / "changed.pt", device="cpu")
    assert torch.equal(changed.text_projection, model.text_projection)


def test_honest_tensor_is_read(tmp_path) -> None:
    """The material of the next test, before anything is wrong with it."""
    records = {"m/data.pkl": tensor_pickle(storage_id()), "m/data/0": FOUR}
    tensors = read_torchscript(archive(tmp_path / "x", records))
    assert tensors["a"].tolist() == [1, 2, 3, 4]
    assert list(tensors) == ["a"]


@pytest.mark.parametrize(
    "data",
    [
        tensor_pickle(storage_id("evil\nFloatStorage")),
        tensor_pickle(storage_id("torch\nUntypedStorage")),
        tensor_pickle(storage_id("torch\nQInt8Storage")),
        tensor_pickle(storage_id(key="../../etc/passwd")),
        tensor_pickle(storage_id(key="/etc/passwd")),
        tensor_pickle(storage_id(key="1")),
        tensor_pickle(storage_id(count=5)),
        tensor_pickle(storage_id(count=-1)),
        tensor_pickle(storage_id("torch\nDoubleStorage")),
        tensor_pickle(storage_id(), offset=1),
        tensor_pickle(storage_id(), offset=-1),
        tensor_pickle(storage_id(), size=5),
        tensor_pickle(storage_id(), size=-1),
        tensor_pickle(storage_id(), size=2_000_000_000, stride=0),
        tensor_pickle(storage_id(), stride=2),
        tensor_pickle(storage_id(), stride=-1),
        tensor_pickle(b"N"),
        tensor_pickle(b"K\x01"),
        tensor_pickle(b"K\x01Q"),
        b"\x80\x02).",
    ],
)
def test_false_storages_and_shapes(data, tmp_path) -> None:
    path = archive(tmp_path / "x", {"m/data.pkl": data, "m/data/0": FOUR})
    with pytest.raises(UnsafeCheckpointError):
        read_torchscript(path)


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "m/../../outside", "C:\\outside"])
def test_names_that_leave_the_archive_are_not_written(name, tmp_path) -> None:
    records = {"m/data.pkl": tensor_pickle(storage_id()), "m/data/0": FOUR, name: b"x"}
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    before = set(tmp_path.rglob("*"))
    path = archive(folder / "x", records)
    assert list(read_torchscript(path)) == ["a"]
    assert set(tmp_path.rglob("*")) == before | {path}


def test_ambiguous_and_inflated_archives(tmp_path) -> None:
    honest = {"m/data.pkl": tensor_pickle(storage_id()), "m/data/0": FOUR}
    two = archive(tmp_path / "two", honest | {"n/data.pkl": honest["m/data.pkl"]})
    big = archive(tmp_path / "big", honest | {"m/byteorder": b"big"})
    deflated = archive(tmp_path / "deflated", honest, zipfile.ZIP_DEFLATED)
    none = archive(tmp_path / "none", {})
    twice = archive(tmp_path / "twice", honest)
    with zipfile.ZipFile(twice, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("m/data/0", FOUR)
    for path in (two, big, deflated, none, twice):
        with pytest.raises(UnsafeCheckpointError):
            read_torchscript(path)


def test_module_that_contains_itself(tmp_path) -> None:
    data = b"\x80\x02c__torch__\nM\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb."
    with pytest.raises(UnsafeCheckpointError, match="twice"):
        read_torchscript(archive(tmp_path / "x", {"m/data.pkl": data}))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("format", ["clip_model", "openai", "open_clip"])
def test_truncated_files(share, format, tmp_path) -> None:
    path = tmp_path / "model.pt"
    clip_model.save(random_model(VIT), path, format)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(RuntimeError):
        clip_model.load(path, device="cpu")


def test_changed_bytes_are_noticed_or_harmless(tmp_path, flag_path) -> None:
    """Any byte of an archive's pickle replaced: an error that says so, or tensors."""
    data = tensor_pickle(storage_id())
    for position in range(2, len(data)):
        for byte in (0x00, 0x52, 0x63, 0x81, 0x93, 0xFF):
            changed = data[:position] + bytes([byte]) + data[position + 1 :]
            stream = io.BytesIO()
            with zipfile.ZipFile(stream, "w") as file:
                file.writestr("m/data.pkl", changed)
                file.writestr("m/data/0", FOUR)
            path = tmp_path / "x"
            path.write_bytes(stream.getvalue())
            try:
                read_torchscript(path)
            except UnsafeCheckpointError:
                continue
    assert not flag_path.exists()
