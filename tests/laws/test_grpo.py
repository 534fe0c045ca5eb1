"""grpo and rloo: a session is TRL's own trainer to the bit, and checkpoints lie where the answers are used up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ._runs import finish, hash_of

PROMPTS = [{"prompt": f"Where is order {number}?", "number": number} for number in range(14)]
ASKED: dict[str, Any] = {
    "data": PROMPTS,
    "batch_size": 4,
    "num_generations": 2,
    "max_completion_length": 8,
    "learning_rate": 5e-3,
    "max_length": 64,
}
GEOMETRIES = {
    "plain": {"accumulation": 1},
    "accumulating": {"accumulation": 2},
    "several-steps": {"accumulation": 1, "steps_per_generation": 2, "num_iterations": 2},
    "several-generations": {"accumulation": 4, "steps_per_generation": 2},
}


def letters(prompts: list[Any], completions: list[Any], number: list[int], **_: Any) -> list[float]:
    """Distinct letters, and something of the row."""
    said = [answer if isinstance(answer, str) else answer[0]["content"] for answer in completions]
    return [len(set(text)) + 0.01 * one for text, one in zip(said, number, strict=True)]


def _as_documented(session: Any, folder: Path, rows: list[dict[str, Any]] = PROMPTS, **own: Any) -> Any:
    """TRL's trainer over raw conversational prompts, as its documentation builds it."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    from jupyter_ft.control.lease import seeded_streams
    from jupyter_ft.methods.method import arguments
    from jupyter_ft.models import POOL
    from jupyter_ft.weights import to_train

    kinds = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}
    recipe, live = session.recipe, session.recipe.hyperparameters
    kind, config = kinds[recipe.method]
    base = POOL.get(recipe.model, revision=None, dtype="float32", report=lambda *_: None)
    shell = base.shell()
    names = ("beta", "temperature", "epsilon", "num_generations", "num_iterations", "max_completion_length")
    settings = {name: getattr(live, name) for name in names} | own
    settings["steps_per_generation"] = live.steps_per_generation
    args = arguments(config, recipe, folder, shell, **settings)
    conversations = [row | {"prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows]
    with seeded_streams(recipe.seed):
        return kind(
            model=to_train(shell, recipe),
            reward_funcs=letters,
            args=args,
            train_dataset=Dataset.from_list(conversations),
            processing_class=base.new_tokenizer(),
        )


def _trained(trainer: Any, seed: int) -> tuple[list[float], str]:
    from jupyter_ft.control.lease import Streams
    from jupyter_ft.weights import trained_tensors

    Streams.seeded(seed).put()
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, hash_of(trained_tensors(trainer.model))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "geometry"),
    [
        *(("grpo", geometry) for geometry in GEOMETRIES),
        *(("rloo", geometry) for geometry in ("plain", "several-steps")),
        *(
            pytest.param("rloo", geometry, marks=pytest.mark.slow)
            for geometry in ("accumulating", "several-generations")
        ),
    ],
)
def test_a_session_equals_trls_own(tune: Any, tmp_path: Path, method: str, geometry: str) -> None:
    asked = ASKED | GEOMETRIES[geometry] | {"method": method, "epochs": 2}
    session = tune("policy", rewards=letters, **asked)
    ours = finish(session)
    trainer = _as_documented(session, tmp_path / "bare")
    theirs = _trained(trainer, session.recipe.seed)
    assert ours == theirs
    assert len(ours[0]) == session.total_steps == session.recipe.hyperparameters.geometry.updates(14) * 2
    metrics = session.metrics
    for name in (
        "reward",
        "kl",
        "rewards/letters/mean",
        "completions/mean_length",
        "entropy",
        "clip_ratio/region_mean",
    ):
        noted = [entry[name] for entry in trainer.state.log_history if name in entry]
        assert metrics[name].dropna().tolist() == noted, name
    assert metrics["reward"].std() > 0


@pytest.mark.slow
def test_full_weights_refer_to_the_base_that_is_there(tune: Any, tmp_path: Path) -> None:
    from jupyter_ft.messages import Progress

    session = tune("policy", rewards=letters, **ASKED | {"method": "grpo", "adapter": "full", "learning_rate": 1e-3})
    ours = finish(session)
    assert ours == _trained(_as_documented(session, tmp_path / "bare"), session.recipe.seed)
    assert session.metrics["kl"].max() > 0
    assert sum(isinstance(event, Progress) and "loading" in event.what for event in session.events) <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("grpo", {"temperature": 0.6}),
        ("grpo", {"beta": 0.5}),
        ("grpo", {"epsilon": 0.05}),
        ("rloo", {"beta": 0.5}),
        ("rloo", {"reward_weights": [2.0]}),
    ],
    ids=["temperature", "beta", "epsilon", "rloo-beta", "weights"],
)
def test_a_live_field_is_what_it_would_be_from_the_start(
    tune: Any, tmp_path: Path, method: str, changes: dict[str, Any]
) -> None:
    asked = ASKED | {"method": method, "accumulation": 1, "num_iterations": 2, "max_steps": 6}
    session = tune("policy", rewards=letters, **asked)
    session.set(step=1, **changes).wait()
    ours = finish(session)
    assert ours == _trained(_as_documented(session, tmp_path / "bare", **changes), session.recipe.seed)
    assert ours != _trained(_as_documented(session, tmp_path / "other"), session.recipe.seed)


@pytest.mark.slow
def test_checkpoints_lie_where_the_answers_are_used_up(tune: Any) -> None:
    """Four steps live on one generation: what needs a checkpoint waits for its end, and so does a new temperature."""
    asked = ASKED | {"method": "grpo", "accumulation": 1, "steps_per_generation": 2, "num_iterations": 2, "epochs": 3}
    session = tune("saved", rewards=letters, checkpoint_steps=1, **asked)
    session.set(step=6, learning_rate=1e-3)
    warmer = session.set(step=10, temperature=2.0)
    session.wait(step=5)
    assert session.save().wait() % 4 == 0
    assert warmer.wait() == 13  # the step that generates
    session.wait(step=17)
    assert session.stop().wait() % 4 == 0
    session.wait_until_over(30)
    assert session.step % 4 == 0
    assert session.step >= 20
    assert all(step % 4 == 0 for step in session.steps)
    session.resume().wait()
    stopped = finish(session)

    whole = tune("whole", rewards=letters, **asked)
    whole.set(step=6, learning_rate=1e-3)
    whole.set(step=10, temperature=2.0)
    assert stopped == finish(whole)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_looking_does_not_touch_and_evaluation_tells_the_reward(tune: Any, method: str) -> None:
    asked = ASKED | {"method": method, "accumulation": 1, "epochs": 2, "held_out": 4}
    alone = finish(tune("alone", rewards=letters, eval_steps=10**6, **asked))
    session = tune("watched", rewards=letters, eval_steps=2, **asked)
    for number in range(4):
        session.ask([{"role": "user", "content": f"Hello {number}"}], at="live", max_new_tokens=20, temperature=1.0)
    assert finish(session) == alone
    measured = {event.step: event for event in session.events if event.kind == "eval"}
    assert len(measured) >= 4
    best = max(measured, key=lambda step: measured[step].metrics["eval_reward"])
    assert measured[max(measured)].best_step == best
    assert best in session.steps


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grpo", pytest.param("rloo", marks=pytest.mark.slow)])
def test_the_reward_of_held_out_prompts_rises(tune: Any, method: str) -> None:
    def early(completions: list[str]) -> list[float]:
        return [sum(letter < "n" for letter in text.lower()) / max(1, len(text)) for text in completions]

    asked = ASKED | {"method": method, "num_generations": 16, "batch_size": 32, "accumulation": 1, "held_out": 4}
    asked |= {"rewards": early, "schedule": "constant", "eval_steps": 10**6, "trainer": {"num_generations_eval": 16}}
    asked |= {"adapter": "full", "beta": 0.001}  # the tiny model's output layer is too small for an adapter beneath it
    untrained = tune("untrained", **asked | {"learning_rate": 1e-12, "max_steps": 1})
    session = tune("policy", **asked | {"learning_rate": 1e-2, "max_steps": 40})
    before, after = (
        [event for event in run.wait().events if event.kind == "eval"][-1].metrics["eval_reward"]
        for run in (untrained, session)
    )
    assert after > before + 0.1, session.metrics["reward"].round(2).tolist()


@pytest.mark.slow
def test_what_cannot_be_is_said_before_anything_is_loaded(tune: Any) -> None:
    from jupyter_ft.errors import RecipeError

    for more, said in [
        ({"num_generations": 8}, "batch_size 4 x 1 .* no multiple of num_generations 8; the nearest batch_size is 8"),
        ({"accumulation": 2, "steps_per_generation": 3, "num_generations": 4}, "give a multiple of 2"),
        ({"accumulation": 8}, "16 prompts are answered at once .* and there are 14"),
        ({"trainer": {"use_vllm": True}}, "trainer.use_vllm: that is the session's own"),
        ({"trainer": {"temperature": 0.5}}, "write it as temperature"),
    ]:
        with pytest.raises(RecipeError, match=said):
            tune("policy", rewards=letters, **ASKED | {"method": "grpo", "accumulation": 1} | more)
    session = tune("policy", rewards=letters, **ASKED | {"method": "grpo", "accumulation": 1})
    for changes, said in [
        ({"num_generations": 4}, "'num_generations' is fixed once a run has started: how many answers"),
        ({"batch_size": 8}, "'batch_size' is fixed"),
        ({"beta": 0}, "with 0 a run keeps no reference"),
        ({"reward_weights": [1, 2]}, "one for each of the 1 rewards"),
    ]:
        with pytest.raises(RecipeError, match=said):
            session.set(**changes)
    finish(session)
