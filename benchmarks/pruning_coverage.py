"""How many architectures channel pruning copes with: transformers' own configurations, made small, random weights.

    pip install transformers==5.23.0
    python benchmarks/pruning_coverage.py

Each network loses 30 % of the channels of every group that can be pruned: channels of convolutions, neurons, heads,
widths. It counts as working where the forward pass runs, multiply-accumulates and parameters fall, the export to ONNX
works, and the outputs are those of the same network with the removed channels at zero: `PruneChannels` proves that on
its own or refuses, and `channels_at_zero` compares modules again, apart from that proof. What does not work must say
why. Writes results/pruning_coverage.json and .md; with names, as `ResNet BERT`, only prints what becomes of those.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from channels_at_zero import difference
from torch import Tensor, nn

from paring.data.job import Job
from paring.errors import ParingError
from paring.graph.export import export_onnx, export_program, signature_of
from paring.graph.macs import layer_costs
from paring.techniques import PruneChannels
from paring.types import Task

RESULTS = Path(__file__).parent / "results"
RATIO = 0.3
MOST_DIFFERENCE = 1e-4
ROWS = 2

TEXT = {
    "vocab_size": 200,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
VISION = {"image_size": 32, "patch_size": 8, **{name: size for name, size in TEXT.items() if name != "vocab_size"}}
SPEECH = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": (32, 32),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 20,
}


class Plain(nn.Module):
    """A network of transformers that takes tensors and gives one."""

    def __init__(self, network: nn.Module, names: tuple[str, ...], output: str) -> None:
        super().__init__()
        self.network, self.names, self.output = network, names, output

    def forward(self, *inputs: Tensor) -> Tensor:
        """What the network gives under the output's name."""
        found: Tensor = self.network(**dict(zip(self.names, inputs, strict=True)))[self.output]
        return found


Built = tuple[nn.Module, tuple[Tensor, ...]]


def made(name: str, config: dict[str, Any], names: tuple[str, ...], output: str) -> nn.Module:
    """The network of a class of transformers with random weights."""
    family = next(end for end in ENDS if name.endswith(end))
    settings = getattr(transformers, name.removesuffix(family) + "Config")(**config)
    return Plain(getattr(transformers, name)(settings).eval(), names, output)


ENDS = (
    *("ForSequenceClassification", "ForImageClassification", "ForAudioClassification", "ForVideoClassification"),
    *("ForQuestionAnswering", "ForCausalLM", "LMHeadModel", "ForCTC", "Model"),
)


def text(name: str, **settings: Any) -> Callable[[], Built]:
    """A network of tokens."""

    def build() -> Built:
        output = "logits" if not name.endswith("Model") or name.endswith("LMHeadModel") else "last_hidden_state"
        return made(name, {**TEXT, **settings}, ("input_ids",), output), (torch.randint(5, 200, (ROWS, 16)),)

    return build


def image(name: str, size: int = 32, **settings: Any) -> Callable[[], Built]:
    """A network of pictures with settings of its own."""

    def build() -> Built:
        output = "last_hidden_state" if name.endswith("Model") else "logits"
        return made(name, settings, ("pixel_values",), output), (torch.randn(ROWS, 3, size, size),)

    return build


def speech(name: str, **settings: Any) -> Callable[[], Built]:
    """A network of waveforms."""

    def build() -> Built:
        return made(name, {**SPEECH, **settings}, ("input_values",), "logits"), (torch.randn(ROWS, 800),)

    return build


def video(name: str, **settings: Any) -> Callable[[], Built]:
    """A network of clips of 4 pictures."""

    def build() -> Built:
        config = {**VISION, "num_frames": 4, **settings}
        return made(name, config, ("pixel_values",), "logits"), (torch.randn(ROWS, 4, 3, 32, 32),)

    return build


def spectrogram() -> Built:
    """Audio as a picture."""
    config = {**{n: v for n, v in VISION.items() if n != "image_size"}, "max_length": 64, "num_mel_bins": 32}
    network = made("ASTForAudioClassification", config, ("input_values",), "logits")
    return network, (torch.randn(ROWS, 64, 32),)


def whisper() -> Built:
    """The encoder of a speech recogniser."""
    config = transformers.WhisperConfig(
        d_model=64, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=128, max_source_positions=32
    )
    encoder = transformers.models.whisper.modeling_whisper.WhisperEncoder(config).eval()
    return Plain(encoder, ("input_features",), "last_hidden_state"), (torch.randn(ROWS, 80, 64),)


def image_and_text(name: str, **settings: Any) -> Callable[[], Built]:
    """Two towers: the scores of each picture for each text."""

    def build() -> Built:
        towers = {"text_config": {**TEXT, "max_position_embeddings": 32, **settings}, "vision_config": VISION}
        config = getattr(transformers, name + "Config")(**towers)
        network = getattr(transformers, name + "Model")(config).eval()
        inputs = (torch.randint(5, 200, (ROWS, 16)), torch.randn(ROWS, 3, 32, 32))
        return Plain(network, ("input_ids", "pixel_values"), "image_embeds"), inputs

    return build


def question_and_image() -> Built:
    """One encoder of words and patches."""
    config = {**TEXT, "image_size": 32, "patch_size": 8, "max_position_embeddings": 32}
    network = made("ViltForQuestionAnswering", config, ("input_ids", "pixel_values"), "logits")
    return network, (torch.randint(5, 200, (ROWS, 16)), torch.randn(ROWS, 3, 32, 32))


STAGES = {"hidden_sizes": [16, 32], "depths": [1, 1]}
WINDOWS = {"image_size": 64, "embed_dim": 32, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4}
PYRAMID = {
    "num_encoder_blocks": 2,
    "depths": [1, 1],
    "hidden_sizes": [32, 64],
    "num_attention_heads": [2, 4],
    "strides": [4, 2],
    "mlp_ratios": [2, 2],
}
GROUPED = {"num_key_value_heads": 2, "pad_token_id": 0}

ARCHITECTURES: dict[str, dict[str, Callable[[], Built]]] = {
    "convolutional": {
        "ResNet": image("ResNetForImageClassification", 64, embedding_size=16, layer_type="basic", **STAGES),
        "ResNet bottleneck": image("ResNetForImageClassification", 64, embedding_size=16, **STAGES),
        "RegNet": image("RegNetForImageClassification", 64, embedding_size=16, groups_width=8, **STAGES),
        "ConvNeXt": image("ConvNextForImageClassification", 64, num_stages=2, **STAGES),
        "ConvNeXt V2": image("ConvNextV2ForImageClassification", 64, num_stages=2, **STAGES),
        "MobileNetV1": image("MobileNetV1ForImageClassification", 64, depth_multiplier=0.25),
        "MobileNetV2": image("MobileNetV2ForImageClassification", 64, depth_multiplier=0.35),
        "EfficientNet": image(
            "EfficientNetForImageClassification", 64, width_coefficient=1.0, depth_coefficient=0.2, hidden_dim=1280
        ),
        "BiT": image("BitForImageClassification", 64, embedding_size=32, hidden_sizes=[128, 256], depths=[1, 1]),
        "PoolFormer": image(
            "PoolFormerForImageClassification",
            64,
            num_encoder_blocks=2,
            patch_sizes=[7, 3],
            strides=[4, 2],
            padding=[2, 1],
            **STAGES,
        ),
    },
    "vision transformer": {
        "ViT": image("ViTForImageClassification", **VISION),
        "DeiT": image("DeiTForImageClassification", **VISION),
        "BEiT": image("BeitForImageClassification", **VISION),
        "DINOv2": image("Dinov2ForImageClassification", **VISION),
        "ViT-MSN": image("ViTMSNForImageClassification", **VISION),
        "Swin": image("SwinForImageClassification", 64, **WINDOWS),
        "Swin V2": image("Swinv2ForImageClassification", 64, **WINDOWS),
        "PVT": image(
            "PvtForImageClassification",
            64,
            image_size=64,
            sequence_reduction_ratios=[4, 1],
            patch_sizes=[4, 2],
            **PYRAMID,
        ),
        "SegFormer": image("SegformerForImageClassification", 64, sr_ratios=[4, 1], patch_sizes=[7, 3], **PYRAMID),
    },
    "text encoder": {
        "BERT": text("BertForSequenceClassification"),
        "RoBERTa": text("RobertaForSequenceClassification"),
        "XLM-RoBERTa": text("XLMRobertaForSequenceClassification"),
        "ELECTRA": text("ElectraForSequenceClassification", embedding_size=32),
        "DistilBERT": text("DistilBertForSequenceClassification", dim=64, n_heads=4, n_layers=2, hidden_dim=128),
        "ALBERT": text("AlbertForSequenceClassification", embedding_size=32),
        "MPNet": text("MPNetForSequenceClassification"),
        "DeBERTa V2": text("DebertaV2ForSequenceClassification"),
        "CamemBERT": text("CamembertForSequenceClassification"),
        "ERNIE": text("ErnieForSequenceClassification"),
        "MobileBERT": text("MobileBertForSequenceClassification", embedding_size=32, intra_bottleneck_size=32),
        "SqueezeBERT": text("SqueezeBertForSequenceClassification", embedding_size=64),
        "ModernBERT": text(
            "ModernBertForSequenceClassification",
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            cls_token_id=1,
            sep_token_id=2,
        ),
    },
    "text decoder": {
        "GPT-2": text("GPT2LMHeadModel", n_embd=64, n_layer=2, n_head=4),
        "GPT-NeoX": text("GPTNeoXForCausalLM"),
        "OPT": text("OPTForCausalLM", ffn_dim=128, word_embed_proj_dim=64),
        "BLOOM": text("BloomForCausalLM", n_layer=2, n_head=4),
        "Llama": text("LlamaForCausalLM", **GROUPED),
        "Mistral": text("MistralForCausalLM", **GROUPED),
        "Qwen2": text("Qwen2ForCausalLM", **GROUPED),
        "Qwen3": text("Qwen3ForCausalLM", head_dim=16, **GROUPED),
        "Gemma": text("GemmaForCausalLM", head_dim=16, **GROUPED),
        "Phi": text("PhiForCausalLM"),
    },
    "speech": {
        "wav2vec 2.0": speech("Wav2Vec2ForCTC"),
        "HuBERT": speech("HubertForCTC"),
        "WavLM": speech("WavLMForCTC"),
        "Whisper encoder": whisper,
        "AST": spectrogram,
    },
    "video": {
        "VideoMAE": video("VideoMAEForVideoClassification", tubelet_size=2),
        "TimeSformer": video("TimesformerForVideoClassification"),
        "ViViT": video("VivitForVideoClassification", tubelet_size=[2, 8, 8]),
    },
    "image and text": {
        "CLIP": image_and_text("CLIP", eos_token_id=2),
        "SigLIP": image_and_text("Siglip"),
        "ViLT": question_and_image,
    },
}


def cost(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[int, int]:
    """Multiply-accumulates for one row, and parameters."""
    macs = sum(layer.macs for layer in layer_costs(network, inputs).values())
    return macs, sum(parameter.numel() for parameter in network.parameters())


@torch.no_grad()
def _enliven_(network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Larger random weights where those that came give nothing but zeros: of these nothing could be told."""
    if not network(*inputs).any():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter)


def tried(build: Callable[[], Built]) -> dict[str, Any]:
    """What became of one architecture."""
    torch.manual_seed(0)
    network, inputs = build()
    _enliven_(network, inputs)
    job = Job.of(Task(network, [(inputs, None)]))
    begin_s = time.monotonic()
    technique = PruneChannels(RATIO, round_to=1)
    try:
        smaller = technique.apply(network, job)
        before, after = cost(network, inputs), cost(smaller, inputs)
        export_onnx(export_program(smaller, inputs), signature_of(smaller, inputs))
        coverage = technique.coverage(network, smaller, job)
        apart = difference(network, smaller, technique, job, inputs)
    except ParingError as error:
        return {"works": False, "reason": str(error)}
    kept = sorted({layer.reason for layer in coverage.layers if not layer.changed})
    return {
        "works": after[0] < before[0] and after[1] < before[1] and apart < MOST_DIFFERENCE,
        "difference": apart,
        "macs": round(after[0] / before[0], 3),
        "parameters": round(after[1] / before[1], 3),
        "layers": len(coverage.layers),
        "layers_changed": sum(layer.changed for layer in coverage.layers),
        "reasons": kept,
        "seconds": round(time.monotonic() - begin_s, 1),
    }


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """The table that is committed beside the figures."""
    working = sum(row["works"] for row in rows)
    lines = [
        f"# Channel pruning at {RATIO:.0%} on {len(rows)} architectures: {working} work",
        "",
        f"transformers {transformers.__version__}, random weights. MACs and parameters are what is left of them.",
        "",
        "| kind | architecture | works | MACs | parameters | layers changed | why layers, or the network, stayed |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        changed = f"{row['layers_changed']} of {row['layers']}" if "layers" in row else ""
        why = row.get("reason") or "; ".join(row["reasons"][:2])
        figures = f"{row.get('macs', '')} | {row.get('parameters', '')} | {changed}"
        lines.append(f"| {row['kind']} | {row['name']} | {'yes' if row['works'] else 'no'} | {figures} | {why} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Try all of them."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    rows = []
    for kind, networks in ARCHITECTURES.items():
        for name, build in networks.items():
            if len(sys.argv) == 1 or name in sys.argv[1:]:
                rows.append({"kind": kind, "name": name, **tried(build)})
                print(json.dumps(rows[-1]), flush=True)
    if len(sys.argv) > 1:
        return
    (RESULTS / "pruning_coverage.json").write_text(json.dumps(rows, indent=2) + "\n")
    (RESULTS / "pruning_coverage.md").write_text(as_markdown(rows))


if __name__ == "__main__":
    main()
