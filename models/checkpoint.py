"""A thinker's folder: config.json, weights, tokenizer.json; ours, or published by others (foveate.models.published).

safetensors and JSON only, never pickle. Weights stay mapped from their files where they are in the order and the dtype
that is wanted; the others are put together one after another, so that loading takes no more memory than the model.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from foveate.errors import CheckpointError, ConfigError
from foveate.models.config import ThinkerConfig, from_json
from foveate.models.files import Section, read_ignoring_code, read_values, refuse_adapters
from foveate.models.init import laid_out
from foveate.models.published.folder import COMPANIONS, GENERATION, check_weights_are_numbers, read_published
from foveate.models.published.names import RULES, Rule, normalized, published_shapes, published_tensors, sources
from foveate.models.published.turning import row_order
from foveate.models.quantize import quantize
from foveate.models.reasoner import Rounding
from foveate.models.shards import SINGLE, Shards, shard_names
from foveate.models.thinker import Thinker
from foveate.models.tokenizer import TextCodec

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
OURS = "foveate"
"""The family of folders that this repository writes."""
EXACT = ".correction_bias"
"""Keeps the dtype that it is stored in: rounded, it would choose other experts."""
DERIVED = "rotary_emb.inv_freq"
"""Ends the names of buffers that older files hold, and that follow from config.json."""
TIED = "lm_head.weight"
"""What files of models with tied embeddings may still hold."""


def nano_path() -> Path:
    """The folder of the checkpoint that ships with the package."""
    return Path(__file__).parent / "nano" / "weights"


def load_thinker(folder: Path, dtype: torch.dtype | None, rounding: Rounding | None = None) -> Thinker:
    """Read a checkpoint folder in evaluation mode. Raises CheckpointError naming the file and the key that is wrong.

    With a rounding each layer of the decoder is rounded (foveate.models.quantize) before the next one is read: experts
    that have to be put together from many tensors would not fit into memory all at once.
    """
    values = check_family(folder)
    rules = RULES.get(values.get("model_type", OURS))
    if rules is not None:
        published = read_published(folder, values)
        with laid_out():
            thinker = Thinker(published.config, published.codec, published.chat)
        thinker.origin = folder.resolve()
    else:
        config = read_config(folder / CONFIG)
        with laid_out():
            thinker = Thinker(config, TextCodec.from_file(folder / TOKENIZER))
    _check_ids(thinker, folder)
    _fill(thinker, Shards(folder), rules, dtype, rounding)
    convert(thinker, dtype or thinker.decoder.embed.weight.dtype)  # some files hold a part of the weights in another
    return thinker.eval()


def check_family(folder: Path) -> dict[str, Any]:
    """What config.json holds.

    Raises CheckpointError for a family that is not known, for one that asks for code, for packed weights, and for
    adapters, which are no model.
    """
    refuse_adapters(folder)
    family = read_ignoring_code(folder / CONFIG).get("model_type", OURS)
    if family not in (OURS, *RULES):
        raise CheckpointError(
            f"{folder / CONFIG}: model_type {family!r} is not known; wanted one of {OURS}, {', '.join(RULES)}; what "
            "transformers knows without code of the checkpoint runs as transformers:FOLDER"
        )
    values = read_values(folder / CONFIG)
    check_weights_are_numbers(Section(values=values, where=str(folder / CONFIG)))
    return values


def _check_ids(thinker: Thinker, folder: Path) -> None:
    """Raises CheckpointError where the tokenizer has more ids than there are embeddings."""
    tokenizer, rows = thinker.processor.codec.tokenizer, thinker.config.decoder.vocab_size
    ids = max(tokenizer.get_vocab_size(), *(index + 1 for index in tokenizer.get_added_tokens_decoder()), 0)
    if ids > rows:
        raise CheckpointError(
            f"{folder}: the tokenizer has ids up to {ids - 1}, and {CONFIG} has embeddings for {rows}; "
            "take the tokenizer that belongs to the weights, or resize their embeddings"
        )


def convert(thinker: Thinker, dtype: torch.dtype | None) -> None:
    """Have the parameters in a dtype, but for those that are kept exact; as they are for None."""
    for name, parameter in thinker.named_parameters():
        parameter.data = _converted(name, parameter.data, dtype)


def read_config(path: Path) -> ThinkerConfig:
    """Read config.json of a folder of ours. Raises CheckpointError naming the key that is wrong."""
    try:
        return from_json(ThinkerConfig, read_values(path))
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _fill(
    thinker: Thinker,
    shards: Shards,
    rules: Sequence[Rule] | None,
    dtype: torch.dtype | None,
    rounding: Rounding | None,
) -> None:
    """Give every parameter its numbers."""
    config = thinker.config
    layer_ending_with = {f"decoder.{name}": layer for name, layer in _last_of_layers(thinker.decoder)}
    names = {normalized(name) if rules else name: name for name in shards.file_of if not name.endswith(DERIVED)}
    spare = set(names) - ({TIED} if rules and config.decoder.tie_embeddings else set())
    for name, parameter in list(thinker.named_parameters()):
        rule = sources(name, rules, config) if rules else Rule(name, (name,))
        for theirs in rule.theirs:
            if theirs not in names:
                raise CheckpointError(f"{shards} lacks the tensor {theirs} that {CONFIG} asks for")
        found = Rule(name, tuple(names[theirs] for theirs in rule.theirs), rule.transposed, rule.order)
        tensor = _assembled(found, parameter.shape, shards, config, dtype)
        owner, _, leaf = name.rpartition(".")
        setattr(thinker.get_submodule(owner), leaf, nn.Parameter(tensor, requires_grad=False))
        spare -= set(rule.theirs)
        if rounding and (layer := layer_ending_with.get(name)):
            _round(thinker.decoder.get_submodule(layer), rounding, shards, f"{layer}.")
    if spare:
        raise CheckpointError(f"{shards} holds the tensor {names[min(spare)]} that {CONFIG} does not know")
    if config.decoder.tie_embeddings:
        embeddings = thinker.decoder.embed.weight
        if TIED in names and not torch.equal(embeddings, shards.read(names[TIED]).to(embeddings.dtype)):
            raise CheckpointError(
                f"{shards}: {names[TIED]} differs from the embeddings that {CONFIG} ties it to; "
                "set tie_word_embeddings to false"
            )
        thinker.decoder.head.weight = thinker.decoder.embed.weight
    if rounding:
        _round(thinker.decoder, rounding, shards, "")


def _last_of_layers(decoder: nn.Module) -> Iterator[tuple[str, str]]:
    """The last parameter of each layer, and the layer's name."""
    last = {".".join(name.split(".")[:2]): name for name, _ in decoder.named_parameters() if name.startswith("blocks.")}
    return ((name, layer) for layer, name in last.items())


def _round(part: nn.Module, rounding: Rounding, shards: Shards, within: str) -> None:
    try:
        quantize(part, rounding, within=within)
    except CheckpointError as error:
        raise CheckpointError(f"{shards.folder}: {error}") from error


def _assembled(
    rule: Rule, shape: torch.Size, shards: Shards, config: ThinkerConfig, dtype: torch.dtype | None
) -> Tensor:
    """One parameter of ours, read part after part. Raises CheckpointError naming what does not fit."""
    parts = [shards.read(theirs) for theirs in rule.theirs]
    for theirs, part, wanted in zip(rule.theirs, parts, published_shapes(rule, shape, config), strict=True):
        turned = torch.Size((*wanted[:-2], wanted[-1], wanted[-2])) if rule.transposed else wanted
        if part.shape not in (wanted, turned):
            file = shards.file_of[theirs]
            raise CheckpointError(f"{file}: {theirs} has shape {list(part.shape)}, wanted {list(wanted)} by {CONFIG}")
    if len(parts) == 1:
        return _converted(rule.ours, _ordered(parts[0], shape, rule, config), dtype).contiguous()
    rows = shards.span(rule.theirs, parts)
    rows = torch.cat([part.to(dtype or part.dtype) for part in parts]) if rows is None else rows
    return rows.to(dtype or rows.dtype).view(shape)


def _converted(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A parameter in the dtype that is wanted, or as it is."""
    return tensor if dtype is None or name.endswith(EXACT) else tensor.to(dtype)


def _ordered(tensor: Tensor, shape: torch.Size, rule: Rule, config: ThinkerConfig) -> Tensor:
    """A published tensor in the order and the shape of ours."""
    if rule.transposed and tensor.shape != shape:
        tensor = tensor.transpose(-1, -2)
    if rule.order is not None:
        tensor = tensor[row_order(rule.order, config)]
    return tensor.reshape(shape)


def save_thinker(
    thinker: Thinker, folder: Path, dtype: torch.dtype | None, weights: Mapping[str, Tensor] | None = None
) -> None:
    """Write the folder, weights in `dtype` or as they are; each file is renamed into place when it is complete.

    `weights` by name in place of the thinker's own.

    A published checkpoint is written in its own form, with the files beside its weights as they were. Raises
    CheckpointError for weights that were rounded: they are not what was published. And where the disk refuses;
    then what was there before is still there.
    """
    if thinker.decoder.head.rounded is not None:
        raise CheckpointError("weights that were rounded are not saved; load the folder without :int8 or :nf4 first")
    if thinker.origin is not None and not (thinker.origin / CONFIG).is_file():
        raise CheckpointError(
            f"{thinker.origin} holds no {CONFIG} any more, which belongs to the weights as its tokenizer does; "
            "put the folder back and save again"
        )
    rules = RULES.get(thinker.config.model_type)
    own = dict(thinker.named_parameters()) if weights is None else weights
    named = {name: _converted(name, p.detach().cpu(), dtype) for name, p in own.items()}
    tensors = published_tensors(named, rules, thinker.config) if rules else named
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shards = shard_names(folder)
        save_file(contiguous, folder / f"{SINGLE}.new", metadata={"format": "pt"})
        written = [SINGLE, *_write_companions(thinker, folder, dtype)]
        for name in written:
            (folder / f"{name}.new").replace(folder / name)
        for name in set(shards) - set(written):
            (folder / name).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        for name in (SINGLE, CONFIG, TOKENIZER, *COMPANIONS):
            (folder / f"{name}.new").unlink(missing_ok=True)
        raise CheckpointError(
            f"cannot write the model into {folder} ({error}); make room and write it again"
        ) from error


def _write_companions(thinker: Thinker, folder: Path, dtype: torch.dtype | None) -> list[str]:
    """The files beside the weights, under names that end in .new; returns their names."""
    if thinker.origin is None:
        (folder / f"{CONFIG}.new").write_text(json.dumps(thinker.config.to_json(), indent=2) + "\n")
        tokenizer = thinker.processor.codec.tokenizer.to_str(pretty=True)  # its own `save` raises no OSError
        (folder / f"{TOKENIZER}.new").write_text(tokenizer, encoding="utf-8")
        return [CONFIG, TOKENIZER]
    names = [name for name in COMPANIONS if (thinker.origin / name).is_file()]
    for name in names:
        shutil.copyfile(thinker.origin / name, folder / f"{name}.new")
    if dtype is not None:
        config = folder / f"{CONFIG}.new"
        values = _of_dtype(json.loads(config.read_text(encoding="utf-8")), str(dtype).removeprefix("torch."))
        config.write_text(json.dumps(values, indent=2) + "\n")
    if GENERATION in names:
        _write_penalty(folder / f"{GENERATION}.new", thinker.config.repetition_penalty)
    return names


def _write_penalty(path: Path, penalty: float) -> None:
    """Of a generation_config.json: a policy learns what it says without one."""
    values = json.loads(path.read_text(encoding="utf-8"))
    if values.get("repetition_penalty", 1.0) not in (None, penalty):
        path.write_text(json.dumps(values | {"repetition_penalty": penalty}, indent=2) + "\n", encoding="utf-8")


def _of_dtype(values: dict[str, Any], dtype: str) -> dict[str, Any]:
    """A config.json whose sections say another dtype, where they say one: transformers loads weights in it."""
    said = {key: dtype for key in ("dtype", "torch_dtype") if key in values}
    inner = {key: _of_dtype(value, dtype) for key, value in values.items() if isinstance(value, dict)}
    return values | said | inner
