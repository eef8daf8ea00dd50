"""The bearer token, as server and clients read it: a line of printable ASCII without spaces, which a header can hold.

No message repeats it.
"""

from __future__ import annotations


class TokenError(ValueError):
    """No token; the message says what is wrong with it."""


def read_token(text: str | bytes) -> str:
    """The token without the whitespace around it, such as a file's last newline.

    Raises:
        TokenError: it is empty, or not of printable ASCII without spaces.
    """
    token = (text.decode("latin-1") if isinstance(text, bytes) else text).strip()
    if not token:
        raise TokenError("the token is empty; write one into the file or MEDATRON_REWARD_TOKEN")
    if not all("!" <= character <= "~" for character in token):
        raise TokenError(
            "the token has characters that a header cannot hold; expected one line of ASCII letters, digits and "
            "punctuation without spaces, such as `openssl rand -hex 32` prints"
        )
    return token
