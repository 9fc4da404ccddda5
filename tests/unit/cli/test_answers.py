"""Answers on the terminal: streamed, timed, and stopped by Ctrl-C."""

from __future__ import annotations

from medimind.cli.answers import Spoken, say_cut_off, say_live
from medimind.config.prompt import PromptConfig
from medimind.engines.engine import Decoding, Message, Request
from medimind.prompts.templates import get_template

REQUEST = Request((Message("user", "Why?"),))


class Scripted:
    """An engine that says its pieces, or is interrupted where ``None`` stands."""

    def __init__(self, *pieces, ends="stop"):
        self.template = get_template(PromptConfig(template="chatml"))
        self.pieces, self.ends = pieces, ends
        self.is_closed = False

    def stream(self, request, *, decoding):
        try:
            for piece in self.pieces:
                if piece is None:
                    raise KeyboardInterrupt
                yield piece
            return self.ends
        finally:
            self.is_closed = True


def test_an_answer_is_shown_as_it_comes(capsys):
    spoken = say_live(Scripted("It", " is", " A."), request=REQUEST, decoding=Decoding(8))
    assert (spoken.text, spoken.num_pieces, spoken.finish_reason) == ("It is A.", 3, "stop")
    assert capsys.readouterr().out == "It is A.\n"
    assert 0 <= spoken.first_seconds <= spoken.seconds


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said():
    engine = Scripted("It", " is", None, " never said")
    spoken = say_live(engine, request=REQUEST, decoding=Decoding(8))
    assert (spoken.text, spoken.finish_reason) == ("It is", "cancelled")
    assert engine.is_closed
    nothing = say_live(Scripted(None), request=REQUEST, decoding=Decoding(8))
    assert (nothing.text, nothing.tokens_per_second) == ("", 0.0)


def test_the_speed_leaves_out_the_reading_of_the_prompt():
    spoken = Spoken("abc", 11, first_seconds=5.0, seconds=7.0, finish_reason="stop")
    assert spoken.tokens_per_second == 5.0


def test_a_cut_off_answer_is_told(capsys):
    spoken = say_live(Scripted("It", ends="length"), request=REQUEST, decoding=Decoding(1))
    assert spoken.finish_reason == "length"
    say_cut_off("stop", max_new_tokens=1)
    assert capsys.readouterr().out == "It\n"
    say_cut_off(spoken.finish_reason, max_new_tokens=1)
    assert capsys.readouterr().out == "cut off; --max-new-tokens allows more than 1\n"
