"""The prompt lab: effects equal judging with and without a prompt, from the start."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import zsad
from zsad.common.assets import asset
from zsad.errors import UsageError
from zsad.runs.prompt_effects import DEAD_SENTENCE, sentence_effects, variant

BRICKS = sorted(asset("demo/examples/brick").glob("*.png"))[:3]


def opened(inspector: zsad.Inspector) -> zsad.Session:
    session = zsad.Session(inspector)
    list(session.encode(BRICKS))
    session.rescore()
    return session


def of(inspector: zsad.Inspector) -> list[float | None]:
    return [result.pred_score for result in inspector(BRICKS)]


@pytest.mark.slow
def test_a_words_effect_is_that_of_an_inspector_with_this_word_alone() -> None:
    session = opened(zsad.Inspector(tower="small"))
    found = {one.text: one.effects for one in zsad.prompt_effects(session, range(3))}
    assert len(found) == 9
    plain = of(zsad.Inspector(tower="small"))
    for word in ("scratch", "hole"):
        wanted = [a - b for a, b in zip(of(zsad.Inspector(tower="small", words=(word,))), plain, strict=True)]
        assert found[word] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.slow
def test_two_sets_side_by_side_leave_the_session_as_it_is() -> None:
    session = opened(zsad.Inspector(tower="small"))
    rows = zsad.compare_prompts(session, [{"words": ("scratch", "crack")}, {"words": None}], [2, 0])
    first, second = of(zsad.Inspector(tower="small", words=("scratch", "crack"))), of(zsad.Inspector(tower="small"))
    assert rows == [pytest.approx([first[2], second[2]], abs=1e-4), pytest.approx([first[0], second[0]], abs=1e-4)]
    assert session.inspector.detector.words is None


def test_sentence_effects_equal_a_loop_and_find_the_dead() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 8, generator=generator)
    text = {kind: torch.randn(count, 8, generator=generator) for kind, count in (("normal", 3), ("anomalous", 5))}
    text["anomalous"][2] = (text["anomalous"].sum(0) - text["anomalous"][2]) / 4  # the mean of the others: it changes nothing
    found = sentence_effects(images, text, 0.07)

    def probability(normal: torch.Tensor, anomalous: torch.Tensor) -> list[float]:
        cosines = [[float(torch.cosine_similarity(x, y, dim=0)) / 0.07 for y in (normal, anomalous)] for x in images]
        return [float(torch.tensor(pair).softmax(0)[1]) for pair in cosines]

    whole = probability(text["normal"].mean(0), text["anomalous"].mean(0))
    for kind, vectors in text.items():
        for place in range(len(vectors)):
            rest = torch.stack([row for number, row in enumerate(vectors) if number != place]).mean(0)
            pair = {key: value.mean(0) for key, value in text.items()} | {kind: rest}
            wanted = [a - b for a, b in zip(whole, probability(pair["normal"], pair["anomalous"]), strict=True)]
            assert found[kind][:, place].tolist() == pytest.approx(wanted, abs=1e-5)
    assert bool((found["anomalous"][:, 2].abs() < 1e-5).all())
    assert sentence_effects(images, text | {"normal": text["normal"][:1]}, 0.07)["normal"].abs().max() == 0


@pytest.mark.slow
def test_sentences_of_winclip_are_all_there_and_the_dead_are_flagged() -> None:
    session = opened(zsad.Inspector("winclip", backbone="tiny"))
    found = zsad.prompt_effects(session, range(3))
    sentences = session.inspector.context.sentences
    assert [(one.kind, one.text) for one in found] == [(kind, line) for kind, lines in sentences.items() for line in lines]
    assert all(one.dead == all(abs(effect) < DEAD_SENTENCE for effect in one.effects) for one in found)


def test_phrases_become_a_prompt_set(tmp_path: Path) -> None:
    inspector = zsad.Inspector("winclip", backbone="tiny")
    other = variant(inspector, states=('a "burnt" {}', "{} with a dent"), folder=tmp_path)
    lines = other.context.sentences["anomalous"]
    assert any('a "burnt" object' in line for line in lines)
    assert other.context.sentences["normal"] == inspector.context.sentences["normal"]
    assert inspector.detector.prompts == "winclip"
    assert variant(inspector, target="lamp").context.sentences["normal"][0].count("lamp") == 1


def test_errors() -> None:
    winclip = zsad.Inspector("winclip", backbone="tiny")
    with pytest.raises(UsageError, match="winclip takes no defect words, so they would change nothing"):
        variant(winclip, words=("hole",))
    with pytest.raises(UsageError, match="compact takes no phrases"):
        variant(zsad.Inspector(), states=("damaged {}",))
    with pytest.raises(UsageError, match="needs exactly one {}"):
        variant(winclip, states=("damaged",), folder=Path())
    session = zsad.Session(zsad.Inspector("musc", backbone="compact"))
    list(session.encode(BRICKS))
    with pytest.raises(UsageError, match="musc has learned prompts or none"):
        zsad.prompt_effects(session, [0])
