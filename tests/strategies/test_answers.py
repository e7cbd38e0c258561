"""What the readers find in texts as small models write them, and what must hold for any text at all."""

import json
from decimal import Decimal
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.answers import AnswerType, boxed, canonical_json, exact, read, spell, tidy

KINDS: tuple[AnswerType, ...] = ("math", "number", "choice", "text", "json")


# A table of outputs, kind by kind


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        # GSM8K and its imitations
        ("Natalia sold 48/2 = 24 clips in May.\nAltogether 48+24 = 72 clips.\n#### 72", "72"),
        ("She makes 9 * 2 = $<<9*2=18>>18 every day at the farmer's market.\n#### 18", "18"),
        ("He made $130,000 - $80,000 = $50,000 profit... \n#### 70,000", "70000"),
        ("Let's think step by step.\n1. 16 - 3 - 4 = 9 eggs\n2. 9 * 2 = 18\nSo the answer is 18.", "18"),
        ("Therefore, Janet makes $18 every day at the farmers' market.", "18"),
        ("The answer is $18.00.", "18"),
        ("**Answer:** 42", "42"),
        ("**Answer**: 42 apples", "42"),
        ("**Final Answer**\n\nThe final answer is: **1,234.50** dollars.", "1234.5"),
        ("So, the final answer is 5 hours.", "5"),
        ("Final answer: 20%", "20"),
        ("The answer is 3. Wait, I forgot one. The answer is 4.", "4"),
        ("The answers are 3 and 4.", "3 and 4"),
        ("The final answer is:\n\n\\[ 42 \\]", "42"),
        ("The final answer is $\\frac{1}{2}$. I hope it is correct.", "\\frac{1}{2}"),
        ("The answer is \\(x + 1\\), as asked.", "x + 1"),
        ("The answer is $18 because she sells 9 eggs at $2 each.", "18"),
        ("the temperature fell to −7", "-7"),
        ("It dropped by 5-3", "3"),
        # boxes
        ("Thus \\boxed{42}.", "42"),
        ("$\\boxed{\\text{42 dollars}}$", "42"),
        ("first \\boxed{1}, finally \\boxed{2}", "2"),
        ("\\boxed{\\frac{3}{4}}", "\\frac{3}{4}"),
        ("\\boxed{\\dfrac{3}{4}}", "\\frac{3}{4}"),
        ("\\fbox{7}", "7"),
        ("\\boxed {8}", "8"),
        ("\\boxed{\\boxed{5}}", "5"),
        ("\\boxed{5} and then \\boxed{6", "5"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{5}. As asked, it stands within \\boxed{}.", "5"),
        ("\\boxed{90^\\circ}", "90"),
        ("\\boxed{90^{\\circ}}", "90"),
        ("\\boxed{12{,}500}", "12500"),
        ("\\boxed{12,\\!500}", "12500"),
        ("\\boxed{15\\text{ cm}}", "15"),
        ("\\boxed{15\\,\\mathrm{kg}}", "15"),
        ("\\boxed{2x}", "2x"),
        ("\\boxed{3i}", "3i"),
        ("\\boxed{1,2}", "1,2"),
        ("\\boxed{3 million}", "3 million"),
        ("\\boxed{x = 3}", "x = 3"),
        ("\\boxed{\\$18}", "18"),
        ("\\boxed{B}", "B"),
        ("\\boxed{(B)}", "B"),
        # nothing to be found
        ("I do not know.", None),
        ("", None),
        ("   \n ", None),
    ],
)
def test_mathematics(text: str, answer: str | None) -> None:
    assert read(text, "math") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is -3.50 degrees", "-3.5"),
        ("\\boxed{\\frac{6}{4}}", "3/2"),
        ("\\boxed{-\\dfrac{6}{4}}", "-3/2"),
        ("The answer is 1/2.", "1/2"),
        ("The answer is 3 + 4/2 = 5", "5"),
        ("The answer is 1/0", "0"),
        ("The answer is twelve, that is 12 eggs", "12"),
        ("We get 1,234,567", "1234567"),
        ("1e3", "1000"),
        (".5", "0.5"),
        ("007", "7"),
        ("-0", "0"),
        ("no digits here", None),
    ],
)
def test_numbers(text: str, answer: str | None) -> None:
    assert read(text, "number") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is (B).", "B"),
        ("The correct answer is B) Paris", "B"),
        ("The correct option is C", "C"),
        ("**Answer**: D", "D"),
        ("**Answer: D. Paris**", "D"),
        ("Answer: B because (A) is wrong", "B"),
        ("\\boxed{\\text{(C)}}", "C"),
        ("\\boxed{\\text{C}}", "C"),
        ("Let me see.\n\n(A)", "A"),
        ("B", "B"),
        ("**B.**", "B"),
        ("Neither (A) nor (B) but (D)", "D"),
        ("A dog is an animal", None),
        ("The answer is unknown", None),
        ("", None),
    ],
)
def test_choices(text: str, answer: str | None) -> None:
    assert read(text, "choice") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is  New   York.", "new york"),
        ('Thinking.\n"Paris"\n\n', "paris"),
        ("\\boxed{\\text{East}}", "east"),
        ("**Yes**", "yes"),
        ("\t*. Yes", "yes"),
        ("...", None),
        ("", None),
    ],
)
def test_texts(text: str, answer: str | None) -> None:
    assert read(text, "text") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"b": 1, "a": [1, 2]}', '{"a":[1,2],"b":1}'),
        ('Sure!\n```json\n{"city": "Zürich"}\n```\nAnything else?', '{"city":"Zürich"}'),
        ('Answer: {"city": "Rome"}.', '{"city":"Rome"}'),
        ('[\n  {"a": 1},\n  {"a": 2}\n]', '[{"a":1},{"a":2}]'),
        ('First {"a": 1}, better {"a": 2}', '{"a":2}'),
        ('{"a": 1} but then {"a": ', '{"a":1}'),
        ("```json\n[]\n```", "[]"),
        ("{}", "{}"),
        ("\\frac{1}{2} of \\boxed{}", None),
        ("{not json}", None),
        ('"a string"', None),
        ("", None),
    ],
)
def test_json(text: str, answer: str | None) -> None:
    assert read(text, "json") == answer


@pytest.mark.parametrize(
    "spellings",
    [
        (
            "1000",
            "1,000",
            "1000.0",
            "$1,000",
            "1000 dollars",
            "+1000",
            "1e3",
            "\\text{1000}",
            "1000.",
            "**1000**",
            "£1000",
        ),
        ("-2", "−2", "$-2$", "-2.00", "\\left-2\\right", "-2 cm"),
        ("0.5", ".5", "0.50", "0.5\\%", "0.5 percent"),
        ("\\frac{1}{2}", "\\dfrac{1}{2}", "$\\tfrac{1}{2}$"),
        ("60", "60°", "60^\\circ", "60^{\\circ}", "60 \\text{ mph}", "60mph"),
        ("A", "(A)", "A.", "\\text{A}", "(A):"),
    ],
)
def test_equal_answers_have_one_spelling(spellings: tuple[str, ...]) -> None:
    assert {tidy(spelling) for spelling in spellings} == {spellings[0]}


def test_long_numbers_are_not_rounded() -> None:
    digits = "1234567890" * 4
    assert tidy(digits) == digits
    assert tidy(f"0.{digits[:40]}1") == f"0.{digits[:40]}1"


def test_a_number_of_absurd_length_is_not_written_out() -> None:
    assert tidy("1e999") == "1E+999"


def test_half_a_surrogate_pair_can_be_sent() -> None:
    spelled = canonical_json(["\udc00"])
    assert json.loads(spelled.encode()) == ["\udc00"]


# Properties of any text

FRAGMENTS = st.sampled_from(
    [
        *(
            "\\boxed{",
            "\\fbox{",
            "{",
            "}",
            "\\",
            "\\text{",
            "\\text{\\text{",
            "\\dfrac{1}{2}",
            "\\left",
            "\\circ",
            "°",
            "^",
        ),
        *(
            "answer is ",
            "Final Answer: ",
            "the correct option is",
            "\n",
            " ",
            "\t",
            "*",
            "**",
            ".",
            ",",
            ":",
            ";",
            "~",
            "$",
        ),
        *(
            "1",
            "-",
            "−",
            "+",
            "0",
            "00",
            "1,000",
            "1e9",
            "e",
            "/",
            "%",
            "٣",
            "A",
            "(B)",
            "C)",
            "x",
            " cm",
            " pi",
            "that",
        ),
        *(
            '"',
            "'",
            "`",
            "[",
            "]",
            "```json",
            '{"a":',
            "null",
            "\\(",
            "\\)",
            "\\[",
            "\\]",
            "\\,",
            "{,}",
            "\udc00",
            "ß",
            "\x00",
        ),
    ]
)
TEXTS = st.one_of(st.text(), st.lists(FRAGMENTS, max_size=40).map("".join))


@given(TEXTS, st.sampled_from(KINDS))
def test_reading_never_raises_and_never_finds_emptiness(text: str, kind: AnswerType) -> None:
    answer = read(text, kind)
    assert answer is None or answer.strip()


@given(TEXTS)
def test_a_tidy_answer_stays_as_it_is(text: str) -> None:
    assert tidy(tidy(text)) == tidy(text)


@given(TEXTS)
def test_canonical_json_stays_as_it_is(text: str) -> None:
    if (answer := read(text, "json")) is not None:
        assert read(answer, "json") == answer


@given(TEXTS)
def test_a_boxed_answer_is_found_behind_any_text(text: str) -> None:
    assert boxed(text.rstrip("\\") + " \\boxed{7}") == "7"


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**20), max_value=10**20))
def test_a_number_keeps_its_value(number: Decimal) -> None:
    assert exact(tidy(str(number))) == number


@given(st.integers(-(10**30), 10**30), st.sampled_from(["{}", "{:,}", "{}.0", "${}$", "{} apples", "\\boxed{{{}}}"]))
def test_an_integer_is_read_however_it_is_dressed(number: int, dress: str) -> None:
    assert read(dress.format(number), "math") == str(number)
    assert read(dress.format(number), "number") == str(number)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=20, min_value=-(10**40), max_value=10**40))
def test_spelling_keeps_the_value(number: Decimal) -> None:
    assert Decimal(spell(number)) == number


# Adversaries: growth, rather than time, so that a busy machine does not decide

ADVERSARIES = [
    *(
        "{",
        "}",
        "\\",
        "(",
        "[",
        "[[",
        "1",
        "1,",
        ",111",
        "-",
        ".",
        " ",
        "\n",
        "\t",
        "*",
        "**",
        "$",
        "A",
        "a",
        "e",
        "^",
        "/",
    ),
    *(
        "\\boxed{",
        "\\fbox{",
        "\\boxed",
        "\\boxed ",
        "\\text{",
        "\\text ",
        "\\frac{",
        "\\frac{1}",
        "\\(",
        "\\)",
        "\\[",
        "\\{",
    ),
    *(
        "answer is",
        "answer is ",
        "answer is\n",
        "answer is 1 ",
        "answer ",
        "final ",
        "correct ",
        "answer is \\(",
        "(A)",
        "A\n",
    ),
    *(
        "{\n",
        "[\n",
        '{"',
        '["',
        '{"a":',
        "[1,",
        "[1,\n",
        '[\n"',
        "[1]",
        "```json\n{",
        "1 ",
        "1/",
        "1 / ",
        "a b ",
        "$1",
        "1e",
    ),
]
PREFIXES = ("", "answer is ", "\\boxed{")


def work(unit: str, count: int) -> float:
    """Processor seconds that all readers take for the unit repeated."""
    texts = [prefix + unit * count + end for prefix in PREFIXES for end in ("", "!")]
    begun = process_time()
    for text in texts:
        for kind in KINDS:
            read(text, kind)
    tidy(unit * count)
    return process_time() - begun


@pytest.mark.parametrize("unit", ADVERSARIES)
def test_reading_takes_linear_time(unit: str) -> None:
    """Eight times the text takes about eight times as long, not 64 times; what is over in no time has no ratio. The
    less of two, taken by turns: a processor is not always equally fast."""
    times = [[work(unit, size // len(unit)) for size in (2_500, 20_000)] for _ in range(2)]
    small, large = map(min, zip(*times, strict=True))
    assert large < 32 * max(small, 0.005)


@pytest.mark.parametrize("unit", ["\n", " ", "[\n", "\\(", "1", "answer is ", '{"'])
def test_a_text_of_200_kilobytes_is_read_while_one_waits(unit: str) -> None:
    for kind in KINDS:
        begun = process_time()
        read("answer is " + unit * (200_000 // len(unit)) + "!", kind)
        assert process_time() - begun < 10  # it takes a tenth of a second; a quadratic reader takes minutes
