"""Samples by the ends of their files' names: which reader they get, and what is wrong with a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright.graph.network import Value
from bitwright.store.arrays import example_in
from bitwright.store.sample_set import Samples, Stacking, cast, stacking_of
from bitwright.store.samples import SamplesError, read_samples

X = Value("x", (None, 4), "float32")
MASK = Value("mask", (None, 4), "int64")


def numbers(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def joined(samples: Samples, size: int, name: str = "x") -> torch.Tensor:
    return torch.cat([batch[name] for batch in samples.batches(size)])


def test_one_npz_gives_its_rows_in_batches(tmp_path: Path) -> None:
    mask = np.ones((7, 4), dtype=np.int64)
    np.savez(tmp_path / "a.npz", x=numbers(7, 4), mask=mask, label=np.zeros(7))
    samples = read_samples(tmp_path / "a.npz", [X, MASK])
    assert samples.count == 7
    assert [len(batch["x"]) for batch in samples.batches(3)] == [3, 3, 1]
    assert list(samples.first(2)) == ["x", "mask"]
    assert torch.equal(joined(samples, 3), torch.from_numpy(numbers(7, 4)))
    assert "label" in samples.preprocessing


def test_the_digest_depends_on_the_contents_alone(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=numbers(4, 4))
    np.save(tmp_path / "b.npy", numbers(4, 4))
    np.save(tmp_path / "c.npy", numbers(4, 4)[::-1])
    one, same, other = (read_samples(tmp_path / name, [X]).digest() for name in ("a.npz", "b.npy", "c.npy"))
    assert one == same != other


def test_fewer_samples_are_spaced_evenly(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", numbers(10, 4))
    samples = read_samples(tmp_path / "a.npy", [X], count=3)
    assert joined(samples, 8)[:, 0].tolist() == [0, 12, 24]
    assert read_samples(tmp_path / "a.npy", [X], count=99).count == 10


def test_a_folder_holds_samples_and_batches_in_the_order_of_their_names(tmp_path: Path) -> None:
    everything = numbers(6, 4)
    np.save(tmp_path / "b.npy", everything[3])
    np.save(tmp_path / "a.npy", everything[:3])
    np.savez(tmp_path / "c.npz", x=everything[4:])
    samples = read_samples(tmp_path, [X])
    assert samples.count == 6
    assert torch.equal(joined(samples, 4), torch.from_numpy(everything))


def test_samples_of_different_lengths_do_not_share_a_batch(tmp_path: Path) -> None:
    for place, length in enumerate((3, 3, 5)):
        np.save(tmp_path / f"{place}.npy", numbers(length))
    samples = read_samples(tmp_path, [Value("x", (None, None), "float32")])
    assert [tuple(batch["x"].shape) for batch in samples.batches(8)] == [(2, 3), (1, 5)]


def test_a_network_with_a_fixed_batch_gets_batches_of_that_size(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", numbers(7, 4))
    fixed = Value("x", (3, 4), "float32")
    samples = read_samples(tmp_path / "a.npy", [fixed])
    assert [len(batch["x"]) for batch in samples.batches(64)] == [3, 3]
    assert "1 left over" in samples.preprocessing
    with pytest.raises(SamplesError, match="batches of 3 samples, but there are only 2"):
        read_samples(tmp_path / "a.npy", [fixed], count=2)


def test_samples_that_cannot_share_a_batch_are_calls_of_their_own(tmp_path: Path) -> None:
    inputs = [
        Value("x", (None, 4), "float32"),
        Value("state", (2, None, 3), "float32"),
        Value("rate", (), "int64"),
    ]
    np.savez(tmp_path / "a.npz", x=numbers(5, 4), state=numbers(5, 2, 1, 3), rate=np.int64(16000))
    calls = list(read_samples(tmp_path / "a.npz", inputs).batches(4))
    assert [tuple(call["x"].shape) for call in calls] == [(1, 4)] * 5
    assert torch.equal(calls[3]["state"], torch.from_numpy(numbers(5, 2, 1, 3)[3]))
    assert calls[0]["rate"].item() == 16000
    with pytest.raises(
        SamplesError, match=r"state has shape \[2, 5, 3\], but the network needs \[samples, 2, any, 3\]"
    ):
        np.savez(tmp_path / "b.npz", x=numbers(5, 4), state=numbers(2, 5, 3), rate=np.int64(16000))
        read_samples(tmp_path / "b.npz", inputs)


def test_a_folder_of_whole_calls(tmp_path: Path) -> None:
    inputs = [Value("x", (None, 4), "float32"), Value("state", (2, None, 3), "float32")]
    np.savez(tmp_path / "a.npz", x=numbers(5, 4), state=numbers(2, 5, 3))
    calls = list(read_samples(tmp_path, inputs).batches(4))
    assert [tuple(calls[0][name].shape) for name in ("x", "state")] == [(5, 4), (2, 5, 3)]


def test_scalars_that_differ_keep_samples_apart(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=numbers(3, 4), step=np.array([5, 5, 6]))
    samples = read_samples(tmp_path / "a.npz", [X, Value("step", (), "int64")])
    assert [(len(batch["x"]), batch["step"].item()) for batch in samples.batches(8)] == [(2, 5), (1, 6)]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": numbers(2, 4)}, r"no array for the input x \[any, 4\] \(found: y\)"),
        ({"x": numbers(2, 5)}, r"x has shape \[2, 5\], but the network takes \[any, 4\]"),
        ({"x": numbers(2, 4, 1)}, r"x has shape \[2, 4, 1\], but the network needs \[samples, 4\]"),
        ({"x": numbers(0, 4)}, "empty"),
        ({"x": np.array(["a"])}, "not numbers"),
        ({"x": np.array([None])}, "cannot be read as numpy arrays"),
    ],
)
def test_arrays_that_do_not_fit_are_named(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(SamplesError, match=message):
        read_samples(tmp_path / "a.npz", [X])


def test_arrays_of_different_counts_and_a_damaged_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=numbers(2, 4), mask=np.ones((3, 4), dtype=np.int64))
    with pytest.raises(SamplesError, match="different numbers of samples .x 2, mask 3"):
        read_samples(tmp_path / "a.npz", [X, MASK])
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:90])
    with pytest.raises(SamplesError, match=r"b\.npz: cannot be read"):
        read_samples(tmp_path / "b.npz", [X, MASK])


def test_the_sample_that_is_wrong_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", numbers(4))
    np.save(tmp_path / "b.npy", numbers(5))
    with pytest.raises(SamplesError, match=r"b\.npy: x has shape \[1, 5\], but the network takes \[any, 4\]"):
        read_samples(tmp_path, [X])
    bad = numbers(5, 4)
    bad[3, 2] = np.nan
    np.save(tmp_path / "c.npy", bad)
    with pytest.raises(SamplesError, match=r"c\.npy, sample 3: x holds NaN"):
        list(read_samples(tmp_path / "c.npy", [X]).batches(2))


def test_a_npy_needs_a_network_with_one_input(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", numbers(4, 4))
    with pytest.raises(SamplesError, match="one input, and this one has 2"):
        read_samples(tmp_path / "a.npy", [X, MASK])


def test_types_change_only_where_the_meaning_stays() -> None:
    assert cast("a", X, torch.ones(1, 4, dtype=torch.float64)).dtype == torch.float32
    assert cast("a", MASK, torch.ones(1, 4, dtype=torch.int32)).dtype == torch.int64
    small = Value("x", (None,), "uint8")
    assert cast("a", small, torch.tensor([255])).dtype == torch.uint8
    for value, tensor in (
        (X, torch.ones(1, 4, dtype=torch.uint8)),
        (MASK, torch.ones(1, 4)),
        (small, torch.tensor([256])),
    ):
        with pytest.raises(SamplesError, match="convert it as the model was trained"):
            cast("a", value, tensor)


def test_a_number_too_large_for_the_networks_type_is_an_error() -> None:
    half = Value("x", (None,), "float16")
    assert cast("a", half, torch.tensor([65504.0, torch.inf])).tolist() == [65504, torch.inf]
    with pytest.raises(SamplesError, match=r"numbers up to 1e\+05, which the network's float16 cannot hold"):
        cast("a", half, torch.tensor([1e5]))


def test_what_cannot_be_told_apart_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SamplesError, match="no such file or folder"):
        read_samples(tmp_path / "none", [X])
    with pytest.raises(SamplesError, match="an empty folder"):
        read_samples(tmp_path, [X])
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(SamplesError, match=r"found a\.csv"):
        read_samples(tmp_path, [X])
    with pytest.raises(SamplesError, match=r"end in \.csv are not known"):
        read_samples(tmp_path / "a.csv", [X])
    np.save(tmp_path / "b.npy", numbers(2, 4))
    assert "1 other files not used (a.csv" in read_samples(tmp_path, [X]).preprocessing
    (tmp_path / "c.wav").write_bytes(b"")
    with pytest.raises(SamplesError, match="several kinds"):
        read_samples(tmp_path, [X])
    with pytest.raises(SamplesError, match="at least 1"):
        read_samples(tmp_path / "b.npy", [X], count=0)


def test_a_sample_is_named_after_its_file_and_place(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", numbers(4))
    np.save(tmp_path / "b.npy", numbers(3, 4))
    samples = read_samples(tmp_path, [X], count=2)  # the first and the third of four
    assert [samples.name(index) for index in range(2)] == [str(tmp_path / "a.npy"), f"{tmp_path / 'b.npy'}, sample 1"]


def test_the_first_samples_of_a_file_are_an_example(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=numbers(5, 4), rate=np.int64(8))
    np.save(tmp_path / "b.npy", numbers(5, 4).astype(">f4"))
    by_name, by_place = example_in(tmp_path / "a.npz"), example_in(tmp_path / "b.npy")
    assert {name: tuple(tensor.shape) for name, tensor in by_name.items()} == {"x": (2, 4), "rate": ()}
    assert torch.equal(by_place[0], torch.from_numpy(numbers(2, 4)))
    np.savez(tmp_path / "c.npz", x=numbers(0, 4))
    np.savez(tmp_path / "d.npz")
    for name, message in (("c.npz", "the array x is empty"), ("d.npz", "holds no arrays")):
        with pytest.raises(SamplesError, match=message):
            example_in(tmp_path / name)


def test_text_needs_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a line")
    for path in (tmp_path, tmp_path / "a.txt"):
        with pytest.raises(SamplesError, match="text needs a tokenizer"):
            read_samples(path, [X])


def test_how_samples_make_batches() -> None:
    assert stacking_of([X, MASK, Value("step", (), "int64")]) == Stacking(True, None)
    assert stacking_of([Value("x", (8, 4), "float32")]) == Stacking(True, 8)
    assert stacking_of([X, Value("t", (1,), "float32")]) == Stacking(False, None)
    assert stacking_of([Value("x", None, "float32")]) == Stacking(True, None)


def test_samples_are_picked_by_their_places(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", numbers(6, 4))
    picked = read_samples(tmp_path / "a.npy", [X]).at([4, 1])
    assert picked.count == 2 and joined(picked, 8)[:, 0].tolist() == [16, 4]


def test_dealt_samples_come_from_all_places_and_so_does_every_batch(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", numbers(100, 4))
    dealt = read_samples(tmp_path / "a.npy", [X]).dealt(12, 4)
    batches = [(batch["x"][:, 0] / 4).tolist() for batch in dealt.batches(4)]
    assert sorted(place for batch in batches for place in batch) == [place * 100 // 12 for place in range(12)]
    assert [len(batch) for batch in batches] == [4, 4, 4]
    assert all(min(batch) < 25 and max(batch) >= 75 for batch in batches)


def test_dealt_samples_fill_the_batches_of_a_network_that_fixes_them(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", numbers(30, 4))
    samples = read_samples(tmp_path / "a.npy", [Value("x", (5, 4), "float32")])
    assert [len(batch["x"]) for batch in samples.dealt(12, 16).batches(16)] == [5, 5]
    assert samples.dealt(3, 16).count == 5


def test_there_may_be_room_for_fewer_than_are_asked_for(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", numbers(7, 3))
    samples = read_samples(tmp_path / "a.npy", [Value("x", (None, 3), "float32")]).limited(2)
    assert [len(batch["x"]) for batch in samples.batches(5)] == [2, 2, 2, 1]
    assert len(samples.first(1)["x"]) == 1
    dealt = samples.dealt(6, 16)
    assert dealt.most == 2 and [len(batch["x"]) for batch in dealt.batches(16)] == [2, 2, 2]
    fixed = read_samples(tmp_path / "a.npy", [Value("x", (7, 3), "float32")]).limited(2)
    assert [len(batch["x"]) for batch in fixed.batches(1)] == [7]
