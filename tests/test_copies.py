"""Copies that share what is large: of a model's modules, and of a tokenizer."""

from __future__ import annotations

import copy
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def model(tiny_model: Path) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    return get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model), LoraConfig(r=2, target_modules="all-linear")
    )


def test_a_copy_of_a_model_is_what_deepcopy_gives(model: Any) -> None:
    import torch

    from jupyter_ft.modules import apart

    shared = [p for p in model.parameters() if not p.requires_grad]
    ours, theirs = apart(model, shared), copy.deepcopy(model, {id(p): p for p in shared})
    assert [(name, type(part)) for name, part in ours.named_modules()] == [
        (name, type(part)) for name, part in theirs.named_modules()
    ]
    for part, other in zip(ours.modules(), theirs.modules(), strict=True):
        assert {name: type(value) for name, value in vars(part).items()} == {
            name: type(value) for name, value in vars(other).items()
        }
    assert not {id(part) for part in model.modules()} & {id(part) for part in ours.modules()}
    for (name, p), q in zip(ours.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(p, q)
        assert (p.data_ptr() == q.data_ptr()) == (not q.requires_grad), name
    ids = torch.tensor([[1, 50, 60]])
    with torch.no_grad():
        assert torch.equal(ours.eval()(ids).logits, model.eval()(ids).logits)


def test_what_is_copied_from_a_pattern_is_what_deepcopy_gives(model: Any) -> None:
    import torch

    from jupyter_ft.modules import Pattern, give_parameters

    own = {name for name, p in model.named_parameters() if p.requires_grad}
    pattern = Pattern(model, own)
    ours, theirs = pattern.copied(), copy.deepcopy(model)
    assert [(name, type(part)) for name, part in ours.named_modules()] == [
        (name, type(part)) for name, part in theirs.named_modules()
    ]
    for part, other in zip(ours.modules(), theirs.modules(), strict=True):
        assert {name: type(value) for name, value in vars(part).items()} == {
            name: type(value) for name, value in vars(other).items()
        }
    assert {name for name, p in ours.named_parameters() if p.is_meta} == own
    give_parameters(ours, {name: p for name, p in model.named_parameters() if name in own})
    for (name, p), q in zip(ours.named_parameters(), model.parameters(), strict=True):
        assert p.data_ptr() == q.data_ptr(), name
        assert (p is q) is (name not in own)
    ids = torch.tensor([[1, 50, 60]])
    with torch.no_grad():
        assert torch.equal(ours.eval()(ids).logits, model.eval()(ids).logits)
    again = pattern.copied()
    assert not {id(part) for part in ours.modules()} & {id(part) for part in again.modules()}


def test_nothing_that_can_change_is_shared(model: Any) -> None:
    from peft.tuners.lora import LoraLayer

    from jupyter_ft.modules import apart

    ours = apart(model, model.parameters())
    ours.set_adapter("default")
    layer = next(part for part in ours.modules() if isinstance(part, LoraLayer))
    before = {name: part.scaling["default"] for name, part in model.named_modules() if isinstance(part, LoraLayer)}
    layer.scaling["default"] *= 2
    layer.register_forward_hook(lambda *_: None)
    ours.config.vocab_size = 1
    ours.peft_config["default"].lora_alpha = 1
    assert before == {
        name: part.scaling["default"] for name, part in model.named_modules() if isinstance(part, LoraLayer)
    }
    assert not any(part._forward_hooks for part in model.modules())
    assert model.config.vocab_size != 1
    assert model.peft_config["default"].lora_alpha != 1


def test_a_module_with_a_way_of_its_own_is_asked(model: Any) -> None:
    import torch

    from jupyter_ft.modules import apart

    class Counted(torch.nn.Linear):
        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            return "asked"

    assert apart(torch.nn.ModuleDict({"one": Counted(2, 2)}), [])._modules == {"one": "asked"}


def test_what_is_empty_keeps_its_kind_and_who_it_is_shared_with() -> None:
    """Experts that note their losses in one list, tables that fill themselves: models of strangers have them."""
    import torch

    from jupyter_ft.modules import apart

    class Marked(dict[str, int]):
        def __init__(self, mark: str) -> None:
            super().__init__()
            self.mark = mark

    class Expert(torch.nn.Linear):
        def __init__(self, losses: list[float]) -> None:
            super().__init__(2, 2)
            self.losses, self.seen, self.table = losses, defaultdict[str, list[int]](list), Marked("mine")

    class Experts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.losses: list[float] = []
            self.parts = torch.nn.ModuleList(Expert(self.losses) for _ in range(2))

    model = Experts()
    ours = apart(model, model.parameters())
    assert ours.losses is not model.losses
    assert all(part.losses is ours.losses for part in ours.parts)
    first: Any = ours.parts[0]
    first.seen["a"].append(1)
    assert not model.parts[0].seen
    assert first.table.mark == "mine"


@pytest.mark.parametrize("kind", ["bytes", "word pieces"])
def test_a_tokenizer_of_ones_own_writes_the_same_ids(kind: str, tiny_model: Path) -> None:
    from jupyter_ft.own_tokenizer import own_tokenizer

    first = _tokenizer(kind, tiny_model)
    first.add_tokens(["<new>", "day"])
    first("Where?", truncation=True, max_length=2)
    own = own_tokenizer(first)
    assert own._tokenizer.to_str() == first._tokenizer.to_str()
    texts = ["Where is my order of the day <new>?", "  Δx = 3\n", first.eos_token or "[SEP]"]
    assert own(texts)["input_ids"] == first(texts)["input_ids"]
    assert own.decode(own(texts[0])["input_ids"]) == first.decode(first(texts[0])["input_ids"])


def test_padding_and_new_tokens_of_one_are_not_anothers(tiny_model: Path) -> None:
    from jupyter_ft.own_tokenizer import own_tokenizer

    first = _tokenizer("bytes", tiny_model)
    own = own_tokenizer(first)
    own.add_tokens(["<new>"])
    own.padding_side = "left"
    own(["a", "b c d e f"], padding=True, truncation=True, max_length=3)
    assert "<new>" not in first.get_vocab()
    assert first._tokenizer.padding is None
    assert first._tokenizer.truncation is None
    assert len(first("a b c d e f")["input_ids"]) > 3


def test_what_one_does_to_its_parts_is_not_seen_by_another() -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    from jupyter_ft.own_tokenizer import own_core

    core = Tokenizer(models.BPE({"a": 0, "b": 1, "\u0120": 2}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.normalizer = normalizers.Prepend("b")
    own = own_core(core)
    core.pre_tokenizer.add_prefix_space = True
    core.normalizer.prepend = "a"
    assert own.encode("a").tokens == ["b", "a"]


def test_a_part_that_is_written_in_python_comes_along() -> None:
    from tokenizers import Tokenizer, models, normalizers

    from jupyter_ft.own_tokenizer import own_core

    class Small:
        def normalize(self, text: Any) -> None:
            text.lowercase()

    core = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    core.normalizer = normalizers.Normalizer.custom(Small())
    assert own_core(core).encode("AB").ids == core.encode("AB").ids == [0, 1]


def _tokenizer(kind: str, tiny_model: Path) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if kind == "bytes":
        return AutoTokenizer.from_pretrained(tiny_model)
    words = ["[PAD]", "[UNK]", "[SEP]", "[MASK]", "where", "is", "my", "order", "##s", "of", "the", "day", "=", "3"]
    core = Tokenizer(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", pad_token="[PAD]", mask_token="[MASK]")
