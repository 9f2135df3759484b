"""The for-hire sample months: trips of bases, without money or distance.

Names, types and shares are those of the published months from January 2015 on. Until January 2019, Uber and Lyft are among
the bases; from February 2019 on they have files of their own, see `fhvhv.py`.
"""

from dagster_essentials.ingestion.months import month_number
from dagster_essentials.sample.rows import drawn_zone, draws, month_seconds, value_in

SALT = 20_000_000
"""Its trips have other random numbers than those of the other fleets."""

# The types of the columns, from a month on. INTEGER: published as null-typed, INT32 in the file, every value null.
PICKUP_ZONE_TYPE = {"2015-01": "DOUBLE", "2019-05": "BIGINT", "2019-07": "DOUBLE", "2023-02": "BIGINT"}
DROPOFF_ZONE_TYPE = {**PICKUP_ZONE_TYPE, "2020-07": "BIGINT", "2020-08": "DOUBLE"}
SR_FLAG_TYPE = {"2015-01": "INTEGER", "2017-05": "DOUBLE", "2019-03": "INTEGER", "2023-02": "BIGINT"}

# Measured by year: the drop-offs of 63,387,762 trips of 2015 and 132,112,979 of 2016 precede the pickup, those of 38 % of
# the trips of 2017, which are as many as January to May have, of 7,509 of 2018, and of 292 of 2025.
FILLER = {"2015-01": 0.99999, "2017-06": 0.00003, "2019-01": 0.00001}
FILLER_DROPOFF = "TIMESTAMP '1970-01-01'"
"""In the place of the drop-off. The published files have another moment, of which only is known that it precedes the pickup."""
# Before 2023-02, a zone column is of an integer type in the months in which every trip has a zone.
NO_PICKUP_ZONE = {
    **{"2015-01": 0.27, "2016-01": 0.30, "2017-01": 0.22, "2018-01": 0.14, "2019-01": 0.047, "2019-05": 0.0},
    **{"2019-07": 0.047, "2020-01": 0.008, "2020-10": 0.80, "2025-01": 0.82, "2026-01": 0.85},
}
# 2017 has 44 %: 98 % of its first five months and 11 % of the others. 2019 and 2020 are what 2019 to 2026 together leave.
NO_DROPOFF_ZONE = {
    **{"2015-01": 0.98, "2017-06": 0.11, "2018-01": 0.08, "2019-01": 0.01, "2019-05": 0.0, "2019-07": 0.01},
    **{"2020-07": 0.0, "2020-08": 0.01, "2020-10": 0.15, "2023-01": 0.17},
}
UNKNOWN_DROPOFF = 0.10
"""Zone 265, 264 or 0. Of 154 million trips since 2019, 26 million have such a pickup or drop-off."""
UBER_AND_LYFT = {"2015-01": 0.926, "2019-02": 0.0}
"""Their share of the trips: the fleet fell from 23,159,064 trips to 1,707,650 when they left."""
SHARED = {"2015-01": 0.0, "2017-05": 0.17, "2019-03": 0.0}
"""Trips with the flag. In which months there are any is known, their share is not."""
YEAR_3019 = "2019-02"
"""The month with a drop-off in that year, which no timestamp in nanoseconds holds."""
# Trips that repeat another one, but for the affiliated base, occur; how many is not known.
REPEATED_EVERY = 1_000

DRAWS = ("jitter", "base", "company", "duration", "pickup_zone", "dropoff_zone", "nowhere", "lost", "glitch", "shared")


def fhv_trips(month: str, rows: int) -> str:
    """The query for `rows` trips with the columns of `month`."""
    salt = SALT + month_number(month) * 100
    seconds = month_seconds(month)
    far_future = f"i = {rows // 2}" if month == YEAR_3019 else "false"
    dropoff_zone = (
        f"CASE WHEN glitch < 0.002 THEN 0 WHEN glitch < 0.01 THEN 264 WHEN glitch < {UNKNOWN_DROPOFF} THEN 265 "
        f"ELSE {drawn_zone('dropoff_zone', 263)} END"
    )
    return f"""
WITH drawn AS (
    -- j is i, except for the trips that repeat the previous one.
    SELECT i, if(i % {REPEATED_EVERY} = {REPEATED_EVERY // 2}, i - 1, i) AS j,
        draw(i, {salt + 99}) AS affiliated, {draws(DRAWS, salt)}
    FROM (SELECT range AS i FROM range({rows}))
), moved AS (
    SELECT *,
        -- Never outside the month.
        TIMESTAMP '{month}-01' + to_seconds(least(floor(j / {rows} * {seconds} + jitter * 7200)::BIGINT, {seconds} - 1))
            AS pickup,
        -- Uber and Lyft had 38 bases, the others have hundreds.
        if(company < {value_in(UBER_AND_LYFT, month)}, 2500 + floor(base * 38), 1 + floor(base * base * 800))::BIGINT AS number
    FROM drawn
)
SELECT
    {_base("number")} AS dispatching_base_num,
    pickup AS pickup_datetime,
    CASE
        WHEN {far_future} THEN pickup + INTERVAL 1000 YEAR
        WHEN draw(j, {salt + 98}) < {value_in(FILLER, month)} THEN {FILLER_DROPOFF}
        ELSE pickup + to_seconds(60 + floor(duration * 1700)::BIGINT)
    END AS "dropOff_datetime",
    if(nowhere < {value_in(NO_PICKUP_ZONE, month)}, NULL, {drawn_zone("pickup_zone", 263)})
        ::{value_in(PICKUP_ZONE_TYPE, month)} AS "PUlocationID",
    if(lost < {value_in(NO_DROPOFF_ZONE, month)}, NULL, {dropoff_zone})
        ::{value_in(DROPOFF_ZONE_TYPE, month)} AS "DOlocationID",
    if(shared < {value_in(SHARED, month)}, 1, NULL)::{value_in(SR_FLAG_TYPE, month)} AS "SR_Flag",
    if(affiliated < 0.18, {_base("number")}, {_base("1 + floor(affiliated * 900)::BIGINT")}) AS "Affiliated_base_number"
FROM moved
"""


def _base(number: str) -> str:
    return f"'B' || lpad(({number})::VARCHAR, 5, '0')"
