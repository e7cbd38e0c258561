"""Thirty small programming tasks in the Python that Monty runs: no generators, no inheritance, few modules.

A task asks for one function by its signature and docstring. Its tests are assertions that run after the code, as the
scorer `tests` runs them. `solution` passes all of them, and `wrong`, a likely mistake, fails one at least; both are the
body of the function.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import indent

INSTRUCTION = "Complete this Python function. Answer with the whole function in one code block.\n\n"


@dataclass(frozen=True, slots=True)
class Program:
    """`signature` is `name(parameters)`; `cases` are arguments and what is returned for them, as Python spells them."""

    signature: str
    doc: str
    cases: tuple[tuple[str, str], ...]
    solution: str
    wrong: str

    @property
    def name(self) -> str:
        return self.signature.partition("(")[0]

    @property
    def question(self) -> str:
        return f"{INSTRUCTION}```python\n{self.heading}```"

    @property
    def heading(self) -> str:
        return f'def {self.signature}:\n    """{self.doc}"""\n'

    @property
    def tests(self) -> tuple[str, ...]:
        return tuple(f"assert {self.name}({given}) == {returned}" for given, returned in self.cases)

    def with_body(self, body: str) -> str:
        """The whole function."""
        return self.heading + indent(body, "    ") + "\n"


PROGRAMS = (
    Program(
        "is_palindrome(text)",
        "Whether a text reads the same backwards, ignoring case and everything that is no letter or digit.",
        (("'A man, a plan, a canal: Panama'", "True"), ("'ab'", "False"), ("''", "True"), ("'0P'", "False")),
        "kept = [c.lower() for c in text if c.isalnum()]\nreturn kept == kept[::-1]",
        "return text == text[::-1]",
    ),
    Program(
        "fib(n)",
        "The nth Fibonacci number; fib(0) is 0 and fib(1) is 1.",
        (("0", "0"), ("1", "1"), ("10", "55"), ("50", "12586269025")),
        "a, b = 0, 1\nfor _ in range(n):\n    a, b = b, a + b\nreturn a",
        "a, b = 1, 1\nfor _ in range(n):\n    a, b = b, a + b\nreturn a",
    ),
    Program(
        "primes_below(n)",
        "All primes smaller than n, ascending.",
        (("10", "[2, 3, 5, 7]"), ("2", "[]"), ("3", "[2]"), ("30", "[2, 3, 5, 7, 11, 13, 17, 19, 23, 29]")),
        "return [p for p in range(2, n) if all([p % d for d in range(2, int(p**0.5) + 1)])]",
        "return [p for p in range(2, n) if p == 2 or p % 2]",
    ),
    Program(
        "gcd(a, b)",
        "The greatest common divisor of two numbers that are not negative; gcd(0, 0) is 0.",
        (("12, 18", "6"), ("7, 0", "7"), ("0, 0", "0"), ("17, 5", "1")),
        "while b:\n    a, b = b, a % b\nreturn a",
        "return min(a, b) if max(a, b) % max(min(a, b), 1) == 0 else 1",
    ),
    Program(
        "roman(n)",
        "A number from 1 to 3999 in Roman numerals.",
        (("4", "'IV'"), ("9", "'IX'"), ("1994", "'MCMXCIV'"), ("3888", "'MMMDCCCLXXXVIII'")),
        "pairs = [(1000, 'M'), (900, 'CM'), (500, 'D'), (400, 'CD'), (100, 'C'), (90, 'XC'), (50, 'L'), (40, 'XL'),\n"
        "         (10, 'X'), (9, 'IX'), (5, 'V'), (4, 'IV'), (1, 'I')]\n"
        "out = ''\nfor value, letters in pairs:\n    out += letters * (n // value)\n    n %= value\nreturn out",
        "out = ''\nfor value, letter in [(1000, 'M'), (500, 'D'), (100, 'C'), (50, 'L'), (10, 'X'), (5, 'V'), "
        "(1, 'I')]:\n"
        "    out += letter * (n // value)\n    n %= value\nreturn out",
    ),
    Program(
        "balanced(text)",
        "Whether the brackets ()[]{} in a text are closed in the right order; other characters do not matter.",
        (("'(a[b]{c})'", "True"), ("'(]'", "False"), ("'(('", "False"), ("')('", "False"), ("''", "True")),
        "pairs = {')': '(', ']': '[', '}': '{'}\nopen_ones = []\nfor c in text:\n    if c in '([{':\n"
        "        open_ones.append(c)\n    elif c in pairs and (not open_ones or open_ones.pop() != pairs[c]):\n"
        "        return False\nreturn not open_ones",
        "return all([text.count(a) == text.count(b) for a, b in ['()', '[]', '{}']])",
    ),
    Program(
        "count_words(text)",
        "How often each word occurs, as a dictionary; words are separated by spaces, and case does not matter.",
        (("'a B  b'", "{'a': 1, 'b': 2}"), ("''", "{}"), ("'x x x'", "{'x': 3}")),
        "counts = {}\nfor word in text.lower().split():\n    counts[word] = counts.get(word, 0) + 1\nreturn counts",
        "return {word: text.count(word) for word in text.split()}",
    ),
    Program(
        "flatten(items)",
        "A list with all that is in a list of lists of any depth, in order.",
        (("[1, [2, [3, []]], [[4]]]", "[1, 2, 3, 4]"), ("[]", "[]"), ("[[['a']]]", "['a']")),
        "out = []\nfor item in items:\n    out += flatten(item) if isinstance(item, list) else [item]\nreturn out",
        "out = []\nfor item in items:\n    out += item if isinstance(item, list) else [item]\nreturn out",
    ),
    Program(
        "binary_search(items, wanted)",
        "The index of a number in a sorted list without duplicates, or -1.",
        (("[1, 3, 5, 7], 7", "3"), ("[1, 3, 5, 7], 1", "0"), ("[1, 3], 2", "-1"), ("[], 1", "-1")),
        "low, high = 0, len(items)\nwhile low < high:\n    middle = (low + high) // 2\n"
        "    if items[middle] < wanted:\n        low = middle + 1\n    else:\n        high = middle\n"
        "return low if low < len(items) and items[low] == wanted else -1",
        "low, high = 0, len(items) - 1\nwhile low < high:\n    middle = (low + high) // 2\n"
        "    if items[middle] == wanted:\n        return middle\n    if items[middle] < wanted:\n"
        "        low = middle + 1\n    else:\n        high = middle - 1\nreturn -1",
    ),
    Program(
        "rotate(items, k)",
        "A list with its last k items moved to the front; k may be larger than the list.",
        (("[1, 2, 3, 4], 1", "[4, 1, 2, 3]"), ("[1, 2, 3], 4", "[3, 1, 2]"), ("[], 3", "[]"), ("[1, 2], 0", "[1, 2]")),
        "if not items:\n    return []\nk %= len(items)\nreturn items[len(items) - k:] + items[:len(items) - k]",
        "return items[-k:] + items[:-k]",
    ),
    Program(
        "transpose(matrix)",
        "The transpose of a matrix that is a list of rows of equal length.",
        (("[[1, 2], [3, 4], [5, 6]]", "[[1, 3, 5], [2, 4, 6]]"), ("[]", "[]"), ("[[7]]", "[[7]]")),
        "return [list(column) for column in zip(*matrix)]",
        "return [[matrix[j][i] for j in range(len(matrix[0]))] for i in range(len(matrix))] if matrix else []",
    ),
    Program(
        "run_lengths(text)",
        "The runs of equal characters in a text as a list of pairs of character and length.",
        (("'aabccc'", "[('a', 2), ('b', 1), ('c', 3)]"), ("''", "[]"), ("'abab'", "[('a', 1), ('b', 1)] * 2")),
        "runs = []\nfor c in text:\n    if runs and runs[-1][0] == c:\n        runs[-1] = (c, runs[-1][1] + 1)\n"
        "    else:\n        runs.append((c, 1))\nreturn runs",
        "return [(c, text.count(c)) for c in sorted(set(text))]",
    ),
    Program(
        "two_sum(numbers, target)",
        "The indices (i, j), i < j, of the first two numbers that add up to a target, with the smallest j; else None.",
        (("[2, 7, 11], 9", "(0, 1)"), ("[3, 3], 6", "(0, 1)"), ("[1, 2], 4", "None"), ("[5, 1, 9, 5], 10", "(1, 2)")),
        "seen = {}\nfor j, number in enumerate(numbers):\n    if target - number in seen:\n"
        "        return (seen[target - number], j)\n    if number not in seen:\n        seen[number] = j\nreturn None",
        "for i in range(len(numbers)):\n    for j in range(len(numbers)):\n"
        "        if numbers[i] + numbers[j] == target:\n            return (i, j)\nreturn None",
    ),
    Program(
        "max_subarray(numbers)",
        "The largest sum of a run of neighbouring numbers, which has one number at least.",
        (("[-2, 1, -3, 4, -1, 2, 1, -5]", "6"), ("[-3, -1]", "-1"), ("[5]", "5")),
        "best = current = numbers[0]\nfor number in numbers[1:]:\n    current = max(number, current + number)\n"
        "    best = max(best, current)\nreturn best",
        "best = current = 0\nfor number in numbers:\n    current = max(0, current + number)\n"
        "    best = max(best, current)\nreturn best",
    ),
    Program(
        "merge_intervals(intervals)",
        "Overlapping or touching intervals [start, end] merged, sorted by their start.",
        (
            ("[[1, 3], [2, 6], [8, 9]]", "[[1, 6], [8, 9]]"),
            ("[[4, 5], [1, 4]]", "[[1, 5]]"),
            ("[[1, 9], [2, 3]]", "[[1, 9]]"),
        ),
        "out = []\nfor start, end in sorted(intervals):\n    if out and start <= out[-1][1]:\n"
        "        out[-1][1] = max(out[-1][1], end)\n    else:\n        out.append([start, end])\nreturn out",
        "out = []\nfor start, end in sorted(intervals):\n    if out and start <= out[-1][1]:\n"
        "        out[-1][1] = end\n    else:\n        out.append([start, end])\nreturn out",
    ),
    Program(
        "caesar(text, shift)",
        "A text with its letters a-z and A-Z shifted in the alphabet, which goes round; other characters stay.",
        (("'xyz', 3", "'abc'"), ("'Hello, World!', 1", "'Ifmmp, Xpsme!'"), ("'abc', -1", "'zab'")),
        "out = ''\nfor c in text:\n    if 'a' <= c <= 'z':\n        out += chr((ord(c) - 97 + shift) % 26 + 97)\n"
        "    elif 'A' <= c <= 'Z':\n        out += chr((ord(c) - 65 + shift) % 26 + 65)\n    else:\n"
        "        out += c\nreturn out",
        "return ''.join([chr(ord(c) + shift) if c.isalpha() else c for c in text])",
    ),
    Program(
        "digit_sum(n)",
        "The sum of the decimal digits of a whole number, whatever its sign.",
        (("123", "6"), ("-45", "9"), ("0", "0"), ("10**30", "1")),
        "return sum([int(d) for d in str(abs(n))])",
        "return n if n < 10 else n % 10 + digit_sum(n // 10)",
    ),
    Program(
        "is_leap(year)",
        "Whether a year is a leap year of the Gregorian calendar.",
        (("2024", "True"), ("1900", "False"), ("2000", "True"), ("2023", "False")),
        "return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)",
        "return year % 4 == 0",
    ),
    Program(
        "second_largest(numbers)",
        "The second largest distinct number of a list, or None.",
        (("[3, 1, 2]", "2"), ("[5, 5]", "None"), ("[5, 5, 4]", "4"), ("[]", "None")),
        "distinct = sorted(set(numbers))\nreturn distinct[-2] if len(distinct) > 1 else None",
        "return sorted(numbers)[-2] if len(numbers) > 1 else None",
    ),
    Program(
        "common_prefix(words)",
        "The longest text that all words begin with; '' of no words.",
        (("['flower', 'flow', 'flight']", "'fl'"), ("['a', 'b']", "''"), ("[]", "''"), ("['abx', 'acx']", "'a'")),
        "if not words:\n    return ''\nprefix = words[0]\nfor word in words:\n    while not word.startswith(prefix):\n"
        "        prefix = prefix[:-1]\nreturn prefix",
        "out = ''\nfor c in words[0] if words else '':\n    if all([c in word for word in words]):\n"
        "        out += c\nreturn out",
    ),
    Program(
        "collatz_steps(n)",
        "How many Collatz steps (n/2 if even, else 3n+1) lead from a positive n to 1.",
        (("1", "0"), ("6", "8"), ("27", "111")),
        "steps = 0\nwhile n != 1:\n    n = n // 2 if n % 2 == 0 else 3 * n + 1\n    steps += 1\nreturn steps",
        "steps = 1\nwhile n != 1:\n    n = n // 2 if n % 2 == 0 else 3 * n + 1\n    steps += 1\nreturn steps",
    ),
    Program(
        "to_base(n, base)",
        "A number that is not negative in a base from 2 to 16, with the digits 0-9a-f.",
        (("255, 16", "'ff'"), ("5, 2", "'101'"), ("0, 7", "'0'"), ("100, 9", "'121'")),
        "digits = ''\nwhile n or not digits:\n    digits = '0123456789abcdef'[n % base] + digits\n"
        "    n //= base\nreturn digits",
        "digits = ''\nwhile n:\n    digits = '0123456789abcdef'[n % base] + digits\n    n //= base\nreturn digits",
    ),
    Program(
        "unique(items)",
        "A list without later duplicates, otherwise in order.",
        (("[3, 1, 3, 2, 1]", "[3, 1, 2]"), ("[]", "[]"), ("['b', 'a', 'b']", "['b', 'a']")),
        "out = []\nfor item in items:\n    if item not in out:\n        out.append(item)\nreturn out",
        "return sorted(set(items))",
    ),
    Program(
        "edit_distance(a, b)",
        "The fewest insertions, deletions and replacements of single characters that turn one text into the other.",
        (("'kitten', 'sitting'", "3"), ("'', 'abc'", "3"), ("'same', 'same'", "0"), ("'abc', 'bcd'", "2")),
        "row = list(range(len(b) + 1))\nfor i, x in enumerate(a):\n    new = [i + 1]\n    for j, y in enumerate(b):\n"
        "        new.append(min(row[j] + (x != y), row[j + 1] + 1, new[j] + 1))\n    row = new\nreturn row[-1]",
        "return abs(len(a) - len(b)) + sum([x != y for x, y in zip(a, b)])",
    ),
    Program(
        "longest_increasing(numbers)",
        "The length of the longest strictly increasing subsequence, whose numbers need not be neighbours.",
        (("[10, 9, 2, 5, 3, 7, 101, 18]", "4"), ("[]", "0"), ("[2, 2]", "1"), ("[1, 5, 2, 3]", "3")),
        "ends = []\nfor number in numbers:\n"
        "    best = max([length for end, length in ends if end < number], default=0)\n"
        "    ends.append((number, best + 1))\nreturn max([length for _, length in ends], default=0)",
        "best = run = min(len(numbers), 1)\nfor a, b in zip(numbers, numbers[1:]):\n    run = run + 1 if b > a else 1\n"
        "    best = max(best, run)\nreturn best",
    ),
    Program(
        "count_ways(amount, coins)",
        "How many ways there are to pay an amount with coins of these values, in any number; order does not matter.",
        (("5, [1, 2, 5]", "4"), ("3, [2]", "0"), ("0, [1]", "1"), ("10, [2, 5, 3, 6]", "5")),
        "ways = [1] + [0] * amount\nfor coin in coins:\n    for value in range(coin, amount + 1):\n"
        "        ways[value] += ways[value - coin]\nreturn ways[amount]",
        "ways = [1] + [0] * amount\nfor value in range(1, amount + 1):\n    for coin in coins:\n"
        "        if coin <= value:\n            ways[value] += ways[value - coin]\nreturn ways[amount]",
    ),
    Program(
        "group_anagrams(words)",
        "Words that are anagrams of each other in lists, words and lists in the order in which they first come.",
        (
            ("['eat', 'tan', 'tea', 'nat']", "[['eat', 'tea'], ['tan', 'nat']]"),
            ("[]", "[]"),
            ("['a', 'aa']", "[['a'], ['aa']]"),
        ),
        "groups = {}\nfor word in words:\n    groups.setdefault(''.join(sorted(word)), []).append(word)\n"
        "return list(groups.values())",
        "groups = {}\nfor word in words:\n    groups.setdefault(tuple(sorted(set(word))), []).append(word)\n"
        "return list(groups.values())",
    ),
    Program(
        "evaluate(tokens)",
        "The value of a term in reverse Polish notation: a list of whole numbers and of '+', '-' and '*'.",
        (("[2, 3, '+', 4, '*']", "20"), ("[5, 3, '-']", "2"), ("[7]", "7")),
        "stack = []\nfor token in tokens:\n    if isinstance(token, int):\n        stack.append(token)\n"
        "        continue\n"
        "    b, a = stack.pop(), stack.pop()\n"
        "    stack.append(a + b if token == '+' else a - b if token == '-' else a * b)\n"
        "return stack[0]",
        "stack = []\nfor token in tokens:\n    if isinstance(token, int):\n        stack.append(token)\n"
        "        continue\n"
        "    a, b = stack.pop(), stack.pop()\n"
        "    stack.append(a + b if token == '+' else a - b if token == '-' else a * b)\n"
        "return stack[0]",
    ),
    Program(
        "islands(grid)",
        "How many groups of 1s there are in a grid of 0s and 1s, joined at their sides.",
        (("[[1, 1, 0], [0, 0, 1]]", "2"), ("[]", "0"), ("[[1, 0], [0, 1]]", "2"), ("[[1, 0, 1], [1, 1, 1]]", "1")),
        "left = set([(i, j) for i, row in enumerate(grid) for j, cell in enumerate(row) if cell])\ncount = 0\n"
        "while left:\n    count += 1\n    todo = [left.pop()]\n    while todo:\n        i, j = todo.pop()\n"
        "        for place in [(i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)]:\n            if place in left:\n"
        "                left.remove(place)\n                todo.append(place)\nreturn count",
        "return sum([row[j] == 1 and (j == 0 or row[j - 1] == 0) for row in grid for j in range(len(row))])",
    ),
    Program(
        "seconds(text)",
        "The seconds of a duration such as '1h2m3s'; each part may be missing, and there is one at least.",
        (("'1h2m3s'", "3723"), ("'45s'", "45"), ("'2h'", "7200"), ("'1h30s'", "3630")),
        "total, number = 0, ''\nfor c in text:\n    if c.isdigit():\n        number += c\n    else:\n"
        "        total += int(number) * {'h': 3600, 'm': 60, 's': 1}[c]\n        number = ''\nreturn total",
        "total = 0\nfor part in text.replace('h', ' ').replace('m', ' ').replace('s', '').split():\n"
        "    total = total * 60 + int(part)\nreturn total",
    ),
)
