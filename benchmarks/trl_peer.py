"""Steps of TRL's trainers, where it is installed: what whoever trains such a checkpoint runs today.

The trainers are set up by their own constructors and run the step of their own loop: loss, backward pass, AdamW on the
weights. The tower does not learn.
"""

from importlib import import_module
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from foveate.benchmarks.checkpoints import TEMPLATE
from foveate.benchmarks.measure import Run
from foveate.models.transcript import Transcript
from foveate.models.transformers_model import pictures_alone

SHARED: dict[str, Any] = {
    "use_cpu": True, "bf16": False, "report_to": [], "save_strategy": "no",
    "gradient_checkpointing": False, "learning_rate": 1e-5, "disable_tqdm": True,
}  # fmt: skip


def _processor(folder: Path) -> Any:
    """Pictures and text of Qwen2.5-VL, without its videos."""
    transformers: Any = import_module("transformers")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "pad_token": "<|pad|>"})
    images = transformers.Qwen2VLImageProcessorPil(size={"shortest_edge": 3136, "longest_edge": 12845056})
    kind = pictures_alone(transformers.Qwen2_5_VLProcessor)
    return kind(image_processor=images, tokenizer=tokenizer, chat_template=TEMPLATE)


def _model(folder: Path, dtype: torch.dtype) -> Any:
    transformers: Any = import_module("transformers")
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
    model.model.visual.requires_grad_(False)
    return model


def dpo_step(folder: Path, data: Path, pairs: int, dtype: torch.dtype) -> Run:
    """A step of DPOTrainer on the rows of a file, with weights in `dtype`."""
    import datasets

    trl: Any = import_module("trl")
    rows = datasets.Dataset.from_json(str(data), cache_dir=str(data.parent))
    pictures = [[str(data.parent / name) for name in names] for names in rows["images"]]
    rows = rows.remove_columns("images").add_column("images", pictures)
    rows = rows.cast_column("images", datasets.List(datasets.Image()))
    trainer = trl.DPOTrainer(
        model=_model(folder, dtype),
        args=trl.DPOConfig(
            output_dir=str(folder / "trl"), per_device_train_batch_size=pairs, max_length=None, **SHARED
        ),
        train_dataset=rows,
        processing_class=_processor(folder),
    )
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    batches = cycle(trainer.get_train_dataloader())

    def step(_: int) -> None:
        trainer.training_step(trainer.model, next(batches), None)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    return step


def grpo_step(folder: Path, sampled: list[Transcript], dtype: torch.dtype) -> Run:
    """The learning of a step of GRPOTrainer on samples of one prompt, every second one right; weights in `dtype`."""
    import datasets

    trl: Any = import_module("trl")
    count, processor = len(sampled), _processor(folder)
    trainer = trl.GRPOTrainer(
        model=_model(folder, dtype),
        args=trl.GRPOConfig(
            output_dir=str(folder / "trl"), per_device_train_batch_size=count, num_generations=count, **SHARED
        ),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        train_dataset=datasets.Dataset.from_list([{"prompt": [{"role": "user", "content": "?"}]}] * count),
        processing_class=processor,
    )
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    inputs = _inputs(sampled, processor)

    def step(_: int) -> None:
        trainer.model.train()
        loss = trainer.compute_loss(trainer.model, inputs)
        trainer.accelerator.backward(loss)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    return step


def _inputs(sampled: list[Transcript], processor: Any) -> dict[str, Any]:
    """What GRPOTrainer makes of its samples before it learns from them."""
    prompts, answers = (list(ids) for ids in zip(*map(_split, sampled), strict=True))
    ids_BC = pad_sequence(answers, batch_first=True, padding_value=processor.tokenizer.pad_token_id)
    mask_BC = pad_sequence([torch.ones_like(ids) for ids in answers], batch_first=True)
    images = [image for transcript in sampled for image in transcript.images]
    prompt_BP = torch.stack(prompts)
    pictured_BP = (prompt_BP == processor.image_token_id).long()
    return {
        "prompt_ids": prompt_BP,
        "prompt_mask": torch.ones_like(prompt_BP),
        "completion_ids": ids_BC,
        "completion_mask": mask_BC,
        "advantages": torch.tensor([1.0, -1.0]).repeat(len(sampled) // 2),
        "num_items_in_batch": mask_BC.sum(),
        "pixel_values": torch.cat([image.patches_NP for image in images]),
        "image_grid_thw": torch.tensor([[image.grid.t, image.grid.h, image.grid.w] for image in images]),
        "num_images": [1] * len(sampled),
        "mm_token_type_ids": torch.cat([pictured_BP, torch.zeros_like(ids_BC)], dim=1),
    }


def _split(transcript: Transcript) -> tuple[Tensor, Tensor]:
    """The ids before the first that the policy wrote, and those from there to the last that it wrote."""
    written = torch.nonzero(transcript.by_policy_T)[:, 0]
    first, last = int(written[0]), int(written[-1])
    return transcript.token_ids[:first], transcript.token_ids[first : last + 1]
