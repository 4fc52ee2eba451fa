"""Tiny random models of other families, saved by transformers with their processors."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from qwen import CORPUS
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn

from foveate.models.transformers_model import pictures_alone

TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 2048, "vocab_size": 400}  # fmt: skip
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 14}  # fmt: skip
SIZE = {"height": 28, "width": 28}
CHAT = """\
{%- for message in messages -%}
{{ message['role'] }}: {% for part in message['content'] -%}
{{- 'IMAGE' if part['type'] == 'image' else part['text'] -}}
{%- endfor %}</s>
{% endfor -%}
{%- if add_generation_prompt -%}assistant: {% endif -%}
"""


def tokenizer(**names: str) -> "transformers.PreTrainedTokenizerFast":
    """Bytes, merges of a small corpus and control tokens, some of them by the names that a processor asks for."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False))
    tokens = ["<s>", "</s>", "<pad>", *names.values()]
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>", extra_special_tokens=names
    )


def template(image: str) -> str:
    return CHAT.replace("IMAGE", image)


def llava(folder: Path) -> nn.Module:
    """Its tokenizer begins with <s>, which its template does not write."""
    text = tokenizer(image_token="<image>")
    begin = text.convert_tokens_to_ids("<s>")
    text.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", begin)])
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION, projection_dim=32),
        text_config=transformers.LlamaConfig(**TEXT), image_token_index=text.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    pixels = transformers.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=SIZE)
    transformers.LlavaProcessor(
        image_processor=pixels, tokenizer=text, patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=template("<image>"),
    ).save_pretrained(folder)  # fmt: skip
    return transformers.LlavaForConditionalGeneration(config)


def blip_2(folder: Path) -> nn.Module:
    text = tokenizer()
    text.add_tokens("<image>", special_tokens=True)
    opt = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 400}
    config = transformers.Blip2Config(
        vision_config=transformers.Blip2VisionConfig(**VISION).to_dict(),
        qformer_config=transformers.Blip2QFormerConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, encoder_hidden_size=32
        ).to_dict(),
        text_config=transformers.OPTConfig(**opt, word_embed_proj_dim=32, max_position_embeddings=2048).to_dict(),
        num_query_tokens=4, image_token_index=text.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    pixels = transformers.BlipImageProcessorPil(size=SIZE)
    transformers.Blip2Processor(image_processor=pixels, tokenizer=text, num_query_tokens=4).save_pretrained(folder)
    return transformers.Blip2ForConditionalGeneration(config)


def mllama(folder: Path) -> nn.Module:
    text = tokenizer(image_token="<|image|>", python_tag="<|python_tag|>")
    vision = {key: value for key, value in VISION.items() if key != "num_attention_heads"}
    config = transformers.MllamaConfig(
        vision_config=transformers.models.mllama.MllamaVisionConfig(
            **vision, attention_heads=2, num_global_layers=1, vision_output_dim=64, intermediate_layers_indices=[0],
            max_num_tiles=1, supported_aspect_ratios=[[1, 1]],
        ).to_dict(),
        text_config=transformers.models.mllama.MllamaTextConfig(
            **TEXT, cross_attention_layers=[1], pad_token_id=text.pad_token_id
        ).to_dict(),
        image_token_index=text.convert_tokens_to_ids("<|image|>"),
    )  # fmt: skip
    pixels = transformers.MllamaImageProcessorPil(size=SIZE, max_image_tiles=1)
    transformers.MllamaProcessor(
        image_processor=pixels, tokenizer=text, chat_template=template("<|image|>")
    ).save_pretrained(folder)
    return transformers.MllamaForConditionalGeneration(config)


def gemma3(folder: Path) -> nn.Module:
    text = tokenizer(image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    config = transformers.Gemma3Config(
        vision_config=transformers.SiglipVisionConfig(**VISION).to_dict(),
        text_config=transformers.Gemma3TextConfig(**TEXT, head_dim=16, sliding_window=64).to_dict(),
        mm_tokens_per_image=4, image_token_index=text.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=text.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=text.convert_tokens_to_ids("<end_of_image>"),
    )  # fmt: skip
    pixels = transformers.Gemma3ImageProcessorPil(size=SIZE)
    transformers.Gemma3Processor(
        image_processor=pixels, tokenizer=text, image_seq_length=4, chat_template=template("<start_of_image>")
    ).save_pretrained(folder)
    return transformers.Gemma3ForConditionalGeneration(config)


def internvl(folder: Path) -> nn.Module:
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    text = tokenizer(**names, video_token="<video>")
    config = transformers.InternVLConfig(
        vision_config=transformers.InternVLVisionConfig(
            **VISION | {"image_size": [28, 28], "patch_size": [14, 14]}
        ).to_dict(),
        text_config=transformers.Qwen2Config(**TEXT).to_dict(), image_seq_length=1,
        image_token_id=text.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )  # fmt: skip
    pictures_alone(transformers.InternVLProcessor)(
        image_processor=transformers.GotOcr2ImageProcessorPil(size=SIZE, max_patches=2), tokenizer=text,
        image_seq_length=1, chat_template=template("<IMG_CONTEXT>"),
    ).save_pretrained(folder)  # fmt: skip
    named = folder / "processor_config.json"
    named.write_text(json.dumps(json.loads(named.read_text()) | {"processor_class": "InternVLProcessor"}))
    return transformers.InternVLForConditionalGeneration(config)


FAMILIES: dict[str, Callable[[Path], nn.Module]] = {
    "llava": llava, "blip_2": blip_2, "mllama": mllama, "gemma3": gemma3, "internvl": internvl
}  # fmt: skip


def save(family: str, folder: Path) -> nn.Module:
    """Write model and processor; returns the model."""
    torch.manual_seed(3)
    made = FAMILIES[family](folder).eval()
    made.generation_config.eos_token_id = tokenizer().convert_tokens_to_ids("</s>")
    made.generation_config.pad_token_id = tokenizer().convert_tokens_to_ids("<pad>")
    made.save_pretrained(folder)
    return made
