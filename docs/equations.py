"""A hook of MkDocs that typesets the equations of docstrings.

Docstrings have equations as indented plain text, which is what a terminal shows:

    mu(eta) = E[T | eta] = grad A(eta)

On pages of the API the hook replaces each such block by TeX. A block with anything else than the
notation below, such as a call with keywords, stays the code that it is.
"""

import html
import re

LETTERS = """alpha beta gamma delta epsilon eta theta kappa lambda mu nu xi pi rho sigma tau phi chi
psi omega Gamma Delta Theta Lambda Sigma Phi Psi Omega"""
GREEK = frozenset(LETTERS.split())
FUNCTIONS = frozenset(
    ["log", "exp", "cos", "sin", "tan", "tanh", "cosh", "sinh", "max", "min", "det"]
)
OPERATORS = frozenset(
    ["Var", "Cov", "sd", "corr", "tr", "asinh", "arcsinh", "artanh", "digamma", "ELBO"]
)
SYMBOLS = {"E": r"\mathbb{E}", "grad": r"\nabla", "hess": r"\nabla^2", "in": r"\in"}
BIG = {"sum": r"\sum", "prod": r"\prod"}  # with an index; "sum over" is words
RELATIONS = {"<=": r"\le", ">=": r"\ge", "<-": r"\leftarrow", "~": r"\sim", "...": r"\ldots"}
OPENING = {"(": "(", "[": "[", "{": r"\{"}
CLOSING = {"(": ")", "[": "]", "{": r"\}"}
CLOSED_BY = {"(": ")", "[": "]", "{": "}"}

TOKEN = re.compile(
    r"""(?P<gap>[ ]{2,})|(?P<space>[ ])|(?P<line>\n[ ]*)|(?P<number>\d+(?:\.\d+)?)
    |(?P<quoted>`\w+`)|(?P<name>[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)*)
    |(?P<relation><=|>=|<-|\.\.\.|~)|(?P<mark>[-+*'/=<>|^_.,;:!#(){}\[\]])""",
    re.VERBOSE,
)
BLOCK = re.compile(
    r'<div class="highlight"><pre><span></span><code>(?P<text>[^<]*)</code></pre></div>'
)


def to_tex(text: str) -> str:
    """The TeX of an equation block, one row per line.

    Raises:
        ValueError: If the block is not in the notation of equations.
    """
    text = text.strip("\n")
    indent = len(text) - len(text.lstrip(" "))
    lines = [line[indent:].rstrip() for line in text.splitlines()]
    rows = _Reader("\n".join(lines)).all()
    return rf"\begin{{aligned}}&{rows}\end{{aligned}}" if r"\\" in rows else rows


def on_page_content(content: str, page, **_) -> str:
    """The page, its equation blocks replaced if it is one of the API."""
    return set_blocks(content) if page.file.src_uri.startswith("api/") else content


def set_blocks(content: str) -> str:
    """HTML whose code blocks that are equations are marked as TeX."""

    def replaced(match: re.Match) -> str:
        try:
            tex = to_tex(html.unescape(match["text"]))
        except ValueError:
            return match[0]
        return rf'<div class="arithmatex">\[{html.escape(tex)}\]</div>'

    return BLOCK.sub(replaced, content)


class _Reader:
    """A reader of tokens, from left to right, one call of `group` per bracket."""

    def __init__(self, text: str):
        self.text, self.tokens, place = text, [], 0
        while place < len(text):
            token = TOKEN.match(text, place)
            if token is None:
                raise ValueError(f"Expected the notation of equations; got {text[place:]!r}.")
            self.tokens.append((token.lastgroup, token[0], place))
            place = token.end()
        self.next = 0

    def all(self) -> str:
        """The whole block."""
        rows = self.group("", rows=True)
        if self.next < len(self.tokens):
            raise self.error()
        return rows

    def peek(self) -> tuple[str | None, str]:
        """Kind and text of the next token."""
        if self.next == len(self.tokens):
            return None, ""
        return self.tokens[self.next][:2]

    def error(self) -> ValueError:
        place = self.tokens[min(self.next, len(self.tokens) - 1)][2]
        return ValueError(f"Expected the notation of equations; got {self.text[place:]!r}.")

    def spaced(self, width: int) -> tuple[bool, bool]:
        """Whether there are spaces before and behind the next characters."""
        place = self.tokens[self.next][2]
        around = f" {self.text} "
        return around[place].isspace(), around[place + 1 + width].isspace()

    def group(self, closing: str, rows: bool) -> str:
        """What stands before the closing bracket; line breaks are allowed if `rows`."""
        parts = []
        while self.next < len(self.tokens) and self.peek()[1] != closing:
            if self.peek()[1] in (")", "]", "}"):
                raise self.error()
            parts.append(self.item(rows))
        return " ".join(filter(None, parts))

    def bracket(self, rows: bool, *, bare: bool = False) -> str:
        """A bracket and its contents; without the brackets themselves if `bare`."""
        opening = self.peek()[1]
        if opening not in OPENING:
            raise self.error()
        self.next += 1
        inside = self.group(CLOSED_BY[opening], rows)
        if self.next == len(self.tokens):
            raise self.error()
        self.next += 1
        return inside if bare else f"{OPENING[opening]}{inside}{CLOSING[opening]}"

    def item(self, rows: bool) -> str:
        """The TeX of the next token, with its scripts."""
        kind, text = self.peek()
        if kind == "line" and not rows:
            raise self.error()
        if kind == "name":
            return self.name()
        if kind == "mark":
            return self.mark(rows)
        self.next += 1
        if kind == "space":
            return self.space()
        if kind == "line":
            return r"\\&" + (r"\qquad " if len(text) > 1 else "")
        return {
            "gap": r"\qquad",
            "number": text,
            "quoted": rf"\texttt{{{_escaped(text[1:-1])}}}",
            "relation": RELATIONS.get(text, ""),
        }[str(kind)]

    def mark(self, rows: bool) -> str:
        """Brackets, scripts, and marks whose meaning depends on the spaces around them."""
        text = self.peek()[1]
        before, behind = self.spaced(1)
        if text in OPENING:
            return self.bracket(rows)
        if text in "^_":
            return self.script()
        if (text == "=" and not (before and behind)) or (text == "." and not behind and before):
            raise self.error()
        self.next += 1
        if text == ".":
            # A period ends the block; a dot elsewhere is a product or a placeholder.
            if not before and self.next == len(self.tokens):
                return r"\text{.}"
            previous = self.tokens[self.next - 2][1] if self.next > 1 else ""
            if not before and previous not in OPENING:
                self.next -= 1
                raise self.error()
            return r"\cdot"
        if text == "|":
            if before and behind:
                return r"\mid"
            opens = before or self.tokens[self.next - 2][1] in (*OPENING, "|", "-")
            return r"\lvert" if opens and not behind else r"\rvert"
        if text == "*":
            return r"\ast" if before else r"^{\ast}"
        return r"\#" if text == "#" else text

    def space(self) -> str:
        """A space that is seen if it is beside a word; TeX spaces all else by itself."""
        around = [self.tokens[self.next - 2], *self.tokens[self.next : self.next + 1]]
        words = [kind == "name" and _is_word(text) for kind, text, _ in around]
        marks = [text in (*"-+*/=<>:,", *RELATIONS) for _, text, _ in around]
        return r"\ " if any(words) and not any(marks) else ""

    def script(self) -> str:
        """A superscript or subscript that the name before it does not contain."""
        mark = self.peek()[1]
        self.next += 1
        sign = ""
        if mark == "^" and self.peek()[1] == "-":
            sign, self.next = "-", self.next + 1
        kind, text = self.peek()
        if text == "{" or (text == "(" and mark == "^"):
            inside = self.bracket(rows=False, bare=True)
        elif text == "(":
            inside = self.bracket(rows=False)
        elif kind == "name" and text == "T" and mark == "^":
            self.next, inside = self.next + 1, r"\top"
        elif kind in ("name", "number"):
            inside = self.item(rows=False)
        else:
            raise self.error()
        return f"{mark}{{{sign}{inside}}}"

    def name(self) -> str:
        """A symbol, a function or a word, with what its underscores say."""
        text = self.peek()[1]
        self.next += 1
        following = self.peek()[1]
        if text == "proportional" and [t[1] for t in self.tokens[self.next :][:2]] == [" ", "to"]:
            self.next += 3
            return r"\propto"
        if text == "a" and following == " " and self.next + 1 < len(self.tokens):
            kind, word, _ = self.tokens[self.next + 1]
            if kind == "name" and _is_word(word):
                return r"\text{a}"
        if text == "sqrt" and following == "(":
            return rf"\sqrt{{{self.bracket(rows=False, bare=True)}}}"
        if following == "~":
            self.next += 1
            return rf"\tilde{{{_symbol(text)}}}"
        head, *indices = text.split("_")
        if indices and len(indices[-1]) > 2 and not _is_symbol(head):
            # A name of the code, such as log_base: the last underscore is not an index.
            return rf"\texttt{{{_escaped(text)}}}"
        if len(indices) > 1 and not _is_symbol(head):
            head, indices = " ".join([head, *indices[:-1]]), indices[-1:]
        is_big = head in BIG and (indices or following == "_")
        tex = BIG[head] if is_big else _symbol(head, called=following == "(" and not indices)
        subscript = ",".join(
            index if len(index) <= 2 else rf"\text{{{index}}}" for index in indices
        )
        digits = re.fullmatch(r"([A-Za-z]+?)(\d+)", head)
        if digits:
            tex = _symbol(digits[1])
            subscript = ",".join(filter(None, [digits[2], subscript]))
        return tex + (f"_{{{subscript}}}" if subscript else "")


def _is_symbol(name: str) -> bool:
    stem = name.rstrip("0123456789")
    return len(stem) == 1 or stem in GREEK | OPERATORS | set(SYMBOLS) | set(BIG)


def _is_word(name: str) -> bool:
    """Whether a name is set as text."""
    head = name.split("_")[0]
    return name == "sum" or not (_is_symbol(head) or head in FUNCTIONS | {"sqrt", "proportional"})


def _symbol(name: str, *, called: bool = False) -> str:
    if name in SYMBOLS:
        return SYMBOLS[name]
    if name in GREEK | FUNCTIONS:
        return rf"\{name}"
    if len(name) == 1:
        return name
    if re.fullmatch("d[a-z]", name):
        return f"d{name[1]}"
    if called or name in OPERATORS:
        return rf"\operatorname{{{name}}}"
    return rf"\text{{{name}}}"


def _escaped(text: str) -> str:
    return text.replace("_", r"\_")
