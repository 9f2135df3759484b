"""The columns of the sample months before 2011: coordinates instead of zones, and texts instead of codes.

Spellings, types and shares are those of the published files and of samples of them; see `legacy_columns.py` for what
they become.
"""

from dagster_essentials.sample.rows import drawn_zone

WEST, SOUTH, CELL, CELLS_IN_A_COLUMN = -74.2, 40.5, 0.03, 16
"""The grid of the sample's zones: its corner and the side of a square, in degrees."""
ZONES = 263

# Shares of the trips, by year. Of Kaggle's random trips, so many have a pickup or a drop-off at 0, 0.
NO_PICKUP = {"2009": 0.0230, "2010": 0.0185}
NO_DROPOFF = {"2009": 0.0217, "2010": 0.0172}
# 3 of 783 trips of 2009 have the default position of DDS. Its share of the trips is a guess.
DDS = 0.07
DDS_WITHOUT_POSITION = 0.055
# 7 of 783 pickups of 2009 are elsewhere outside the zones; zones 264 and 265 of the modern months add 0.4 %.
OUTSIDE = 0.005

PAYMENTS = {
    "2009-01": {
        "CMT": ("Credit", "Cash", "No Charge", "Dispute"),
        "VTS": ("Credit", "CASH", "No Charge", "Dispute"),
        "DDS": ("CREDIT", "CASH", "No Charge", "Dispute"),
    },
    "2010-01": dict.fromkeys(("CMT", "VTS", "DDS"), ("CRE", "CAS", "No ", "DIS")),
    "2010-03": {"CMT": ("Cre", "Cas", "No ", "Dis"), "VTS": ("Cre", "CAS", "No ", "DIS")},
    "2010-08": dict.fromkeys(("CMT", "VTS"), ("CRD", "CSH", "NOC", "DIS")),
}
"""The texts of each vendor for card, cash, no charge and dispute, from a month on."""


def trips_with_coordinates(month: str, salt: int) -> str:
    """The query that gives the trips `ridden` the columns of `month`, 2009-01 to 2010-12.

    `salt` makes the random numbers those of this month; with it, 94 to 99 are drawn for nothing else.
    """
    year = month[:4]
    has_dds = f"vendor > {1 - DDS}" if month <= "2010-01" else "false"
    # The meters of VTS sent no seconds.
    pickup, dropoff = (
        f"strftime(if(sender = 'VTS', date_trunc('minute', {at}), {at}), '%Y-%m-%d %H:%M:%S')"
        for at in ("pickup", "pickup + to_seconds(trip_seconds)")
    )
    rate, flag = _rate_code_and_flag(month)
    values = {
        "vendor_name": "sender",
        "Trip_Pickup_DateTime": pickup,
        "Trip_Dropoff_DateTime": dropoff,
        "Passenger_Count": "[1, 1, 1, 1, 1, 1, 1, 2, 2, 3, 4, 5, 6, 0][1 + (passengers * 13)::INTEGER]::BIGINT",
        "Trip_Distance": "miles",
        "Start_Lon": "start_point[1]",
        "Start_Lat": "start_point[2]",
        "Rate_Code": rate,
        "store_and_forward": flag,
        "End_Lon": "end_point[1]",
        "End_Lat": "end_point[2]",
        "Payment_Type": _payment(month),
        "Fare_Amt": "fare_amount",
        "surcharge": "surcharge::DOUBLE",
        "mta_tax": "tax",
        "Tip_Amt": "tip",
        "Tolls_Amt": "tolls_amount::DOUBLE",
        "Total_Amt": "cents(fare_amount + surcharge + coalesce(tax, 0) + tip + tolls_amount)::DOUBLE",
    }
    names = values if year == "2009" else NAMES_OF_2010
    columns = [f"{value} AS {name}" for name, value in zip(names, values.values(), strict=True)]
    # The index of pandas, which the TLC left in the two files that it had to mend.
    if month in ("2010-02", "2010-03"):
        columns.append("j AS __index_level_0__")
    return f""", sent AS (
    SELECT *,
        CASE WHEN vendor_id = 1 THEN 'CMT' WHEN {has_dds} THEN 'DDS' ELSE 'VTS' END AS sender,
        sign * [0.0, 0.5, 1.0][1 + (extras * 2)::INTEGER] AS surcharge,
        {"NULL" if month < "2009-11" else "sign * 0.5"}::DOUBLE AS tax,
        if(payment < 0.25, tip_amount, 0.0) AS tip,
        {", ".join(f"draw(j, {salt + number}) AS {name}" for number, name in enumerate(DRAWS, start=94))}
    FROM ridden
), placed AS (
    SELECT *,
        {_point("pickup", NO_PICKUP[year])} AS start_point,
        {_point("dropoff", NO_DROPOFF[year])} AS end_point
    FROM sent
)
SELECT {", ".join(columns)} FROM placed
"""


DRAWS = ("nowhere", "lost", "pickup_x", "pickup_y", "dropoff_x", "dropoff_y")
NAMES_OF_2010 = (
    *("vendor_id", "pickup_datetime", "dropoff_datetime", "passenger_count", "trip_distance", "pickup_longitude"),
    *("pickup_latitude", "rate_code", "store_and_fwd_flag", "dropoff_longitude", "dropoff_latitude", "payment_type"),
    *("fare_amount", "surcharge", "mta_tax", "tip_amount", "tolls_amount", "total_amount"),
)
"""The columns of 2009, in their order, as 2010 calls them."""


def _point(end: str, without_position: float) -> str:
    """The longitude and latitude of the pickup or the drop-off, a list: in the zone that was drawn, or in none."""
    zone = f"{drawn_zone(f'{end}_zone')}::BIGINT"
    return f"""CASE
            WHEN nowhere < {without_position} THEN [0.0, 0.0]
            WHEN sender = 'DDS' AND lost < {DDS_WITHOUT_POSITION} THEN [-73.137393, 41.366138]
            WHEN {zone} > {ZONES} OR nowhere > {1 - OUTSIDE}
                THEN [round({WEST} + 0.5 * {end}_x, 6), round({SOUTH} - 0.01 - 0.3 * {end}_y, 6)]
            ELSE [round({WEST} + {CELL} * ({zone} // {CELLS_IN_A_COLUMN} + {end}_x), 6),
                round({SOUTH} + {CELL} * ({zone} % {CELLS_IN_A_COLUMN} + {end}_y), 6)]
        END"""


def _payment(month: str) -> str:
    spellings = PAYMENTS[max(since for since in PAYMENTS if since <= month)]
    # In February 2010, CMT sent no payment for some of its trips.
    none = "WHEN sender = 'CMT' AND payment > 0.5 AND payment < 0.6 THEN 'NA '" if month == "2010-02" else ""
    spelled = " ".join(
        f"WHEN sender = '{vendor}' THEN CASE {none} WHEN payment < 0.25 THEN '{card}' WHEN payment < 0.97 THEN '{cash}' "
        f"WHEN payment < 0.985 THEN '{free}' ELSE '{dispute}' END"
        for vendor, (card, cash, free, dispute) in spellings.items()
    )
    return f"CASE {spelled} END"


def _rate_code_and_flag(month: str) -> tuple[str, str]:
    """The rate code and the store-and-forward flag, in the types that the published file of `month` has."""
    if month < "2010-01":
        return "NULL::DOUBLE", "if(sender = 'CMT' AND lost < 0.5, (rate < 0.005)::INTEGER::DOUBLE, NULL::DOUBLE)"
    rate = "CASE WHEN rate < 0.94 THEN 1 WHEN rate < 0.98 THEN 2 WHEN rate < 0.985 THEN 3 WHEN rate < 0.987 THEN 4 ELSE 5 END"
    digits, letters = "if(rate < 0.005, '1', '0')", "if(rate < 0.005, 'Y', 'N')"
    flag = digits if month < "2010-08" else letters if month < "2010-12" else f"if(lost < 0.1, {digits}, {letters})"
    others = "if(lost < 0.01, '*', '')" if month <= "2010-02" else "NULL"
    rate_type = "BIGINT" if month in ("2010-02", "2010-03") else "VARCHAR"
    return f"({rate})::{rate_type}", f"if(sender = 'CMT', {flag}, {others})"
