"""Answers on the terminal: streamed, timed, and stopped by Ctrl-C."""

from __future__ import annotations

from medimind.cli.answers import Spoken, say_live
from medimind.config.prompt import PromptConfig
from medimind.engines.engine import Decoding, Message, Request
from medimind.prompts.templates import get_template

REQUEST = Request((Message("user", "Why?"),))


class Scripted:
    """An engine that says its pieces, or is interrupted where ``None`` stands."""

    def __init__(self, *pieces):
        self.template = get_template(PromptConfig(template="chatml"))
        self.pieces = pieces
        self.is_closed = False

    def stream(self, request, *, decoding):
        try:
            for piece in self.pieces:
                if piece is None:
                    raise KeyboardInterrupt
                yield piece
        finally:
            self.is_closed = True


def test_an_answer_is_shown_as_it_comes(capsys):
    spoken = say_live(Scripted("It", " is", " A."), request=REQUEST, decoding=Decoding(8))
    assert (spoken.text, spoken.num_pieces, spoken.is_stopped) == ("It is A.", 3, False)
    assert capsys.readouterr().out == "It is A.\n"
    assert 0 <= spoken.first_seconds <= spoken.seconds


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said():
    engine = Scripted("It", " is", None, " never said")
    spoken = say_live(engine, request=REQUEST, decoding=Decoding(8))
    assert (spoken.text, spoken.is_stopped) == ("It is", True)
    assert engine.is_closed
    nothing = say_live(Scripted(None), request=REQUEST, decoding=Decoding(8))
    assert (nothing.text, nothing.tokens_per_second) == ("", 0.0)


def test_the_speed_leaves_out_the_reading_of_the_prompt():
    spoken = Spoken("abc", 11, first_seconds=5.0, seconds=7.0, is_stopped=False)
    assert spoken.tokens_per_second == 5.0
