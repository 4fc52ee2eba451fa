"""A supervised stage is told at once what it could not draw."""

from typing import Any

import pytest

from foveate.errors import ConfigError
from foveate.rl.sft import SMALLEST_PAGE, SftConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"families": ("tabel",)}, r"stage\.families is \['tabel'\], wanted some of label"),
        ({"families": ()}, r"stage\.families is \[\], wanted some of label"),
        ({"page_blocks": 2}, rf"stage\.page_blocks is 2, wanted at least {SMALLEST_PAGE}"),
    ],
)
def test_what_cannot_be_drawn_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SftConfig(**values)


def test_a_family_may_come_more_often() -> None:
    assert SftConfig(families=("table", "table", "fact"), page_blocks=SMALLEST_PAGE).families.count("table") == 2
