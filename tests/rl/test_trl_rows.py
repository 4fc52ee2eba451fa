"""Datasets in TRL's form go in as they are, and pairs of rollouts come out in it.

Proved by the messages that come out of rows of every form, by the same transcripts after a way through a file, by a
loss that counts no turn of a prompt, and by refusals that name the row, of pictures with an address or a flaw, too.
"""

import json
import math
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from pictures import noise
from PIL import Image
from played import BUDGET, jobs, whole
from pyarrow import parquet

from foveate.cli import main
from foveate.errors import InputError
from foveate.models import Thinker
from foveate.rl.pairs import pairs_of
from foveate.rl.preference import PreferenceConfig, PreferenceStage
from foveate.rl.preferences import laid_out, open_preferences
from foveate.rl.rollout import rollouts
from foveate.rl.trajectory import read_trajectories, write_trajectories
from foveate.rl.trl_rows import TrlRows, open_rows

USER, SAID = {"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A cat."}
OTHER = {"role": "assistant", "content": "A dog."}
SHOWN = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}
TEXTS: dict[str, Any] = {"prompt": "What is it?", "chosen": "A cat.", "rejected": "A dog."}
PICTURES = {"image": datasets.Image(), "images": datasets.List(datasets.Image())}


def as_lines(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "some.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def as_table(folder: Path, *rows: dict[str, Any]) -> Path:
    """Texts, and pictures as they are stored in a row."""
    features = datasets.Features({name: PICTURES.get(name, datasets.Value("string")) for name in rows[0]})
    path = folder / "some.parquet"
    dataset = datasets.Dataset.from_list(list(rows), features=features)
    parquet.write_table(dataset.data.table, path)  # the package's own way would fetch pictures with an address
    return path


@pytest.mark.parametrize(
    "row",
    [
        TEXTS,
        {"prompt": [USER], "chosen": [SAID], "rejected": [OTHER]},
        {"chosen": [USER, SAID], "rejected": [USER, OTHER]},
        {"prompt": "What is it?", "chosen": [USER, SAID], "rejected": [USER, OTHER]},
        {"prompt": "What is it?", "chosen": [SAID], "rejected": [OTHER]},
        {"prompt": [USER], "chosen": [{**SAID, "content": [{"type": "text", "text": "A cat."}]}], "rejected": [OTHER]},
    ],
    ids=["texts", "messages", "no prompt", "repeated", "text and messages", "parts"],
)
def test_every_form_of_a_row_says_the_same(row: dict[str, Any], tmp_path: Path) -> None:
    (preference,) = TrlRows(as_lines(tmp_path, row))
    assert preference == ([USER], [SAID], [OTHER])


@pytest.mark.parametrize("prompt", [[USER], [SHOWN]], ids=["placed by us", "placed by the row"])
@pytest.mark.parametrize("kind", ["lines", "parquet", "folder", "splits"])
def test_pictures_stand_where_the_row_says(prompt: list[Any], kind: str, tmp_path: Path) -> None:
    noise(60, 50, 0).save(tmp_path / "cat.png")
    row = {"prompt": prompt, "chosen": [SAID], "rejected": [OTHER]}
    if kind == "lines":
        path = as_lines(tmp_path, row | {"images": ["cat.png"]})
    else:
        features = {"images": datasets.List(datasets.Image())}
        made = datasets.Dataset.from_list([row | {"images": [str(tmp_path / "cat.png")]}])
        made = made.cast_column("images", features["images"])
        path = tmp_path / ("some.parquet" if kind == "parquet" else "some")
        if kind == "parquet":
            made.to_parquet(str(path))
        else:
            (made if kind == "folder" else datasets.DatasetDict(train=made)).save_to_disk(str(path))
    (preference,) = open_preferences(path)  # type: ignore[misc]
    (message,) = preference.prompt
    assert [part["type"] for part in message["content"]] == ["image", "text"]
    picture = message["content"][0]["image"]
    picture = Image.open(picture) if isinstance(picture, Path) else picture
    assert picture.convert("RGB").tobytes() == noise(60, 50, 0).convert("RGB").tobytes()


def test_no_turn_of_the_prompt_counts(thinker: Thinker, tmp_path: Path) -> None:
    row = {"prompt": [USER, OTHER, USER], "chosen": [SAID], "rejected": [OTHER]}
    (preference,) = TrlRows(as_lines(tmp_path, row))
    transcript = laid_out(preference, thinker.processor)
    written = transcript.token_ids[transcript.by_policy_T].tolist()
    codec = thinker.processor.codec
    end = codec.end_of_turn
    assert written == [*codec.encode("A cat."), end, *codec.encode("A dog."), end]


def test_a_stage_learns_from_them(thinker: Thinker, tmp_path: Path) -> None:
    noise(60, 50, 0).save(tmp_path / "cat.png")
    row = {"prompt": [USER], "chosen": [SAID], "rejected": [OTHER], "images": ["cat.png"]}
    data = as_lines(tmp_path, row, row | {"images": []})
    thinker.save_pretrained(tmp_path / "start")
    stage = PreferenceStage(PreferenceConfig(start=str(tmp_path / "start"), data=str(data)), 0, "cpu")
    loss, _ = stage.loss(stage.batch(0))
    assert float(loss.detach()) == pytest.approx(math.log(2), abs=5e-2)
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in stage.module.parameters())


def preferring(thinker: Thinker, folder: Path, *rows: dict[str, Any]) -> PreferenceStage:
    thinker.save_pretrained(folder / "start")
    data = as_lines(folder, *rows)
    return PreferenceStage(PreferenceConfig(start=str(folder / "start"), data=str(data)), 0, "cpu")


def test_pairs_of_which_nothing_can_be_learned_are_left_out_and_counted(
    thinker: Thinker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = {"prompt": [USER], "chosen": [SAID], "rejected": [OTHER]}
    bad = [{"rejected": []}, {"rejected": ""}, {"rejected": [USER]}, {"chosen": []}, {"chosen": [OTHER]}]
    stage = preferring(thinker, tmp_path, *(good | change for change in bad[:2]), good, *(good | c for c in bad[2:]))
    assert stage.usable == [2]
    assert torch.equal(stage.batch(0).reference_B, stage.references[0].repeat(8))
    said = [record.getMessage() for record in caplog.records]
    assert [line.split("some.jsonl: ")[1] for line in said] == [
        "3 of 6 pairs left out, the first is row 0: the rejected side says nothing",
        "1 of 6 pairs left out, the first is row 4: the chosen side says nothing",
        "1 of 6 pairs left out, the first is row 5: both sides are the same",
    ]
    with pytest.raises(InputError, match="makes no pair"):
        preferring(thinker, tmp_path, *(good | change for change in bad))


def test_a_picture_that_is_none_is_named_with_its_row(thinker: Thinker, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_text("no picture")
    good = {"prompt": [USER], "chosen": [SAID], "rejected": [OTHER]}
    with pytest.raises(InputError, match=r"some\.jsonl, row 1: .*broken\.png"):
        preferring(thinker, tmp_path, good, good | {"images": ["broken.png"]})


@pytest.mark.parametrize("kind", ["lines", "parquet"])
def test_tools_are_as_they_were_written(kind: str, tmp_path: Path) -> None:
    """Arrow gives every tool the keys of all; what is written in JSON has its own, also those that are null."""
    zoom = {"name": "zoom", "takes": {"box": {"type": "array"}}}
    find = {"name": "find", "takes": {"query": {"type": "string"}}}
    row = {**TEXTS, "tools": [zoom, find]}
    if kind == "lines":
        zoom["takes"]["query"] = None  # type: ignore[index]
        (preference,) = TrlRows(as_lines(tmp_path, row))
    else:
        datasets.Dataset.from_list([row]).to_parquet(str(tmp_path / "some.parquet"))
        (preference,) = TrlRows(tmp_path / "some.parquet")
    assert preference.prompt[0]["tools"] == [zoom, find]
    (preference,) = TrlRows(as_lines(tmp_path, {**TEXTS, "tools": json.dumps([zoom, find])}))
    assert preference.prompt[0]["tools"] == [zoom, find]


def test_what_a_row_says_beside_the_place_of_a_picture_is_handed_on(tmp_path: Path) -> None:
    noise(30, 30).save(tmp_path / "a.png")
    place = {"type": "image", "max_pixels": 4096, "text": None, "min_pixels": None}
    prompt = [USER | {"content": [place, {"type": "text", "text": "What is it?"}]}]
    (preference,) = TrlRows(as_lines(tmp_path, {**TEXTS, "prompt": prompt, "images": ["a.png"]}))
    part, _ = preference.prompt[0]["content"]
    assert part == {"type": "image", "max_pixels": 4096, "image": tmp_path / "a.png"}


@pytest.mark.parametrize("column", PICTURES)
def test_a_picture_that_has_an_address_is_not_fetched(column: str, tmp_path: Path) -> None:
    cell = {"bytes": None, "path": "https://host.invalid/x.png"}
    rows = TrlRows(as_table(tmp_path, {**TEXTS, column: cell if column == "image" else [cell]}))
    with pytest.raises(InputError, match=r"there is no picture .*x\.png"):
        rows[0]


@pytest.mark.parametrize("kind", ["parquet", "folder"])
def test_a_picture_deep_in_a_column_that_nobody_reads_is_not_opened(kind: str, tmp_path: Path) -> None:
    """Nor is a dataset copied beside itself, which would be another one to who goes on with a run."""
    deep = {"views": [[{"bytes": b"no picture", "path": None}]]}
    features = {name: datasets.Value("string") for name in TEXTS}
    deeply = datasets.Features(features | {"beside": {"views": datasets.List(datasets.List(datasets.Image()))}})
    made = datasets.Dataset.from_list([{**TEXTS, "beside": deep}], features=deeply)
    path = tmp_path / "data" / ("some.parquet" if kind == "parquet" else "some")
    path.parent.mkdir()
    made.to_parquet(str(path)) if kind == "parquet" else made.save_to_disk(str(path))
    before = sorted(path.parent.rglob("*"))
    (preference,) = TrlRows(path)
    assert preference == ([USER], [SAID], [OTHER])
    assert sorted(path.parent.rglob("*")) == before


def test_a_broken_picture_of_a_table_is_named_with_its_row(thinker: Thinker, tmp_path: Path) -> None:
    """Pillow raises SyntaxError for a chunk without a name."""
    noise(60, 50).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    broken = whole[:33] + (10).to_bytes(4, "big") + whole[37:51] + bytes(64)
    data = as_table(tmp_path, TEXTS | {"images": []}, TEXTS | {"images": [{"bytes": broken, "path": None}]})
    thinker.save_pretrained(tmp_path / "start")
    with pytest.raises(InputError, match=r"some\.parquet, row 1: the picture is broken"):
        PreferenceStage(PreferenceConfig(start=str(tmp_path / "start"), data=str(data)), 0, "cpu")


def test_pairs_come_back_as_they_were(thinker: Thinker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with rollouts(thinker, at_once=4, budget=BUDGET, keeps_messages=True) as playing:
        write_trajectories(tmp_path / "some.jsonl", whole(list(playing.play(jobs(6)))))
    assert main(["pairs", str(tmp_path / "some.jsonl"), "--out", str(tmp_path / "pairs.parquet")]) == 0
    pairs = list(pairs_of(read_trajectories(tmp_path / "some.jsonl")))
    assert capsys.readouterr().out == f"{len(pairs)} pairs\n"
    columns = datasets.Dataset.from_parquet(str(tmp_path / "pairs.parquet"), cache_dir=str(tmp_path)).column_names
    assert columns == ["tools", "prompt", "images", "chosen", "chosen_images", "rejected", "rejected_images", "reason"]
    assert [row["reason"] for row in open_rows(tmp_path / "pairs.parquet")] == [pair.reason for pair in pairs]
    read = TrlRows(tmp_path / "pairs.parquet")
    assert len(read) == len(pairs)
    for pair, preference in zip(pairs, read, strict=True):
        for saved, said in ((pair.chosen, preference.chosen), (pair.rejected, preference.rejected)):
            wanted = [{k: v for k, v in message.items() if k != "token_ids"} for message in saved.resolved()]
            one, other = (thinker.processor(messages) for messages in (wanted, [*preference.prompt, *said]))
            assert torch.equal(one.token_ids, other.token_ids)
            for before, after in zip(one.images, other.images, strict=True):
                assert torch.equal(before.patches_NP, after.patches_NP)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "there is no prompt"),
        ({"prompt": [SHOWN]}, "more places"),
        ({"prompt": [SHOWN], "images": ["a.png", "a.png"]}, "2 pictures, which are more"),
        ({"prompt": [SHOWN], "images": ["none.png"]}, r"there is no picture .*none\.png"),
        ({"prompt": [], "images": ["a.png"]}, "no message of a user"),
        ({"prompt": [USER], "chosen": [SAID | {"tool_calls": [1]}]}, "tool_calls"),
        ({"prompt": [USER], "chosen": [SAID | {"reasoning_content": "Hm."}]}, "a message has reasoning_content; write"),
        ({"prompt": [USER], "chosen": [SAID | {"thinking": "Hm."}]}, "a message has thinking; write"),
        ({"prompt": [USER], "chosen": [{}]}, "content"),
    ],
)
def test_a_row_that_does_not_fit_is_named(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    noise(30, 30).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=message):
        TrlRows(as_lines(tmp_path, {"chosen": [SAID], "rejected": [OTHER]} | row))[0]


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    for path, message in (
        (as_lines(tmp_path, {"chosen": "a"}), "no column 'rejected'"),
        (tmp_path / "none.parquet", "cannot read preferences"),
        (tmp_path, "cannot read preferences"),
    ):
        with pytest.raises(InputError, match=message):
            open_preferences(path)
    splits = {name: datasets.Dataset.from_list([{"chosen": "a", "rejected": "b"}]) for name in ("train", "test")}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "both"))
    with pytest.raises(InputError, match=r"both has the splits train, test; wanted one of them, as .*both/train"):
        open_preferences(tmp_path / "both")
    assert len(open_preferences(tmp_path / "both" / "test")) == 1
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match="cannot read preferences"):
        open_preferences(tmp_path / "broken.parquet")
    assert main(["pairs", str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "some.parquet")]) == 2


def test_pairs_go_to_parquet_only(thinker: Thinker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with rollouts(thinker, at_once=2, budget=BUDGET, keeps_messages=True) as playing:
        write_trajectories(tmp_path / "some.jsonl", whole(list(playing.play(jobs(2)))))
    assert main(["pairs", str(tmp_path / "some.jsonl"), "--out", str(tmp_path / "some.csv")]) == 2
    assert "wanted a name that ends in .parquet" in capsys.readouterr().err
