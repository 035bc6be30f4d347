"""Tables with unlike keys, one below the other."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from pandas.api.types import is_integer_dtype


def stack(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate tables; columns of whole numbers stay so (as `Int64`) where other tables do not have them.

    >>> heads, loss = pd.DataFrame({"value": [0.5], "head": [1]}), pd.DataFrame({"value": [2.0]})
    >>> stack([heads, loss])
       value  head
    0    0.5     1
    1    2.0  <NA>
    """
    stacked = pd.concat(tables, ignore_index=True)
    for column in stacked.columns:
        found = [is_integer_dtype(table[column]) for table in tables if column in table]
        if all(found) and len(found) < len(tables):
            stacked[column] = stacked[column].astype("Int64")
    return stacked
