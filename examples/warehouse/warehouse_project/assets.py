"""The warehouse as it was before there were models."""

import dagster as dg
import numpy as np
import pandas as pd

CUSTOMERS = 1_000


@dg.asset(key_prefix="warehouse", group_name="warehouse", kinds={"pandas"})
def orders() -> pd.DataFrame:
    """What customers have ordered, one order a row."""
    rng = np.random.default_rng(11)
    customer = rng.integers(0, CUSTOMERS, 6_000)
    return pd.DataFrame({"customer": customer, "amount": rng.gamma(2.0, 20.0, 6_000).round(2)})


@dg.asset(key_prefix="warehouse", group_name="warehouse", kinds={"pandas"})
def customers(orders: pd.DataFrame) -> pd.DataFrame:
    """The customers: what each ordered, and whether it came back."""
    rng = np.random.default_rng(12)
    grouped = orders.groupby("customer")["amount"].agg(["count", "mean"])
    found = grouped.reindex(range(CUSTOMERS), fill_value=0.0).reset_index()
    leaning = found["count"] - 6 + rng.normal(0.0, 1.0, len(found))
    return pd.DataFrame(
        {
            "customer": found["customer"],
            "orders": found["count"].astype("int64"),
            "spent": found["mean"].round(2),
            "returned": leaning > 0,
        }
    )


warehouse_job = dg.define_asset_job(
    "refresh_warehouse", selection=dg.AssetSelection.groups("warehouse")
)
