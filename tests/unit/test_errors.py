"""What messages say of words that may come from a stranger's file."""

from __future__ import annotations

import time

from cosim.errors import listed, nearest


def test_the_nearest_word_is_named_or_all_are() -> None:
    assert nearest("conv7", ["conv1", "linear"]) == "did you mean 'conv1'?"
    assert nearest("zzz", ["conv1", "linear"]) == "known: conv1, linear"
    assert listed([]) == "none"


def test_words_of_a_file_are_compared_in_a_moment_and_safe_to_show() -> None:
    many = [f"layer{number:06d}.of.a.network.with.very.many.tensors" for number in range(100_000)]
    started = time.process_time()
    hint = nearest("layer999999.of.a.network.with.very.many.tensors", many)
    assert time.process_time() - started < 5
    assert "did you mean 'layer" in hint
    assert nearest("x", [f"\x1b[2J{number}" for number in range(50)]).startswith("known: ?[2J0, ?[2J1, ")
    assert nearest("x", many).endswith("tensors, and 99960 more")
    assert nearest("a\x1b[2Jb", ["a\x1b[2Jc"]) == "did you mean 'a?[2Jc'?"
