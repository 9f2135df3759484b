"""The high-volume for-hire sample months: Uber, Lyft and, at first, Juno and Via.

Names, types and shares are those of the published months from February 2019 on. The 17 columns that the TLC added in 2022
are in all months, because it added them to the old files as well.
"""

from dagster_essentials.ingestion.months import month_number
from dagster_essentials.sample.rows import drawn_zone, draws, last_summer_hour, month_seconds, value_in

SALT = 30_000_000
"""Its trips have other random numbers than those of the other fleets."""

# Published as null-typed, every value null. Here the fee is INT32, as there, and the flag is a text: DuckDB cannot write that
# a column has no type, and without it a load refuses numbers as texts.
NULL_AIRPORT_FEE = ("2019-02", "2019-03", "2019-04", "2019-05", "2019-06", "2020-04", "2020-10")
NULL_WAV_MATCH = ("2019-02", "2019-03")

# Shares of the trips. Lyft's is measured in 2026-07; those of Juno and Via, and the months in which they end, are not.
LYFT = 0.27
JUNO = {"2019-02": 0.02, "2019-12": 0.0}
VIA = {"2019-02": 0.03, "2022-01": 0.0}
# 2019-02 to 2026-06, of 1.607 billion trips: 1,355,010, 21,907, 882,487 and 63,026,724.
NEGATIVE_FARE = 0.00084
NEGATIVE_PAY = 0.0000136
NO_MILES = 0.00055
UNKNOWN_DROPOFF = 0.039
# 2026-07.
REQUESTED_AFTER_PICKUP = 0.012
OTHER_TRIP_TIME = 0.0155
# About 10,000 trips a year end before they begin, all of them in the night in which the clocks go back.
BACKWARDS_IN_LAST_SUMMER_HOUR = 0.25
ON_SCENE_OF_LYFT_SINCE = "2026-07"
"""Lyft's trips of 2025-01 have no `on_scene_datetime`, those of 2026-07 do. When that changed is not known."""

DRAWS = (
    *("jitter", "company", "duration", "distance", "pickup_zone", "dropoff_zone", "unknown_zone", "waiting", "ahead"),
    *("fare", "toll", "tip", "extras", "flags", "glitch", "clock"),
)


def fhvhv_trips(month: str, rows: int) -> str:
    """The query for `rows` trips with the columns of `month`."""
    id_type = "INTEGER" if month >= "2023-02" else "BIGINT"
    airport_fee = "NULL::INTEGER" if month in NULL_AIRPORT_FEE else "airport_fee"
    wav_match = "NULL::VARCHAR" if month in NULL_WAV_MATCH else "if(flags > 0.97, 'Y', 'N')"
    # Both were ' ' for Uber until 2024 and 'N' in the rows of 2025-01.
    access_a_ride = "if(hvfhs_license_num = 'HV0003', ' ', 'N')" if month < "2025-01" else "'N'"
    no_on_scene = "hvfhs_license_num = 'HV0005'" if month < ON_SCENE_OF_LYFT_SINCE else "false"
    return f"""
{_rides(month, rows)}
SELECT
    hvfhs_license_num,
    dispatching_base_num,
    if(hvfhs_license_num = 'HV0005', NULL, dispatching_base_num) AS originating_base_num,
    pickup - to_seconds(wait_seconds) AS request_datetime,
    if({no_on_scene}, NULL, pickup - to_seconds(5 + floor(jitter * 90)::BIGINT)) AS on_scene_datetime,
    pickup AS pickup_datetime,
    pickup + to_seconds(if(backwards, -1800, trip_seconds)) AS dropoff_datetime,
    {drawn_zone("pickup_zone", 263)}::{id_type} AS PULocationID,
    if(unknown_zone < {UNKNOWN_DROPOFF}, 265, {drawn_zone("dropoff_zone", 263)})::{id_type} AS DOLocationID,
    miles AS trip_miles,
    if(unknown_zone > {1 - OTHER_TRIP_TIME}, trip_seconds + 300, trip_seconds) AS trip_time,
    fare_amount AS base_passenger_fare,
    tolls, bcf, sales_tax, congestion_surcharge,
    {airport_fee} AS airport_fee,
    if(tip < 0.2, cents(1.0 + floor(tip * 60)), 0.0) AS tips,
    cents(if(glitch > {1 - NEGATIVE_PAY}, -1, 1) * abs(fare_amount) * (0.7 + 0.2 * duration)) AS driver_pay,
    if(flags < 0.05, 'Y', 'N') AS shared_request_flag,
    if(flags < 0.04, 'Y', 'N') AS shared_match_flag,
    {access_a_ride} AS access_a_ride_flag,
    if(flags > 0.998, 'Y', 'N') AS wav_request_flag,
    {wav_match} AS wav_match_flag
    {", cbd_congestion_fee" if month >= "2025-01" else ""}
FROM ridden
"""


def _rides(month: str, rows: int) -> str:
    """The trips as the table expression `ridden`, before they get the types of their month."""
    year = int(month[:4])
    seconds, summer_ends = month_seconds(month), last_summer_hour(year)
    juno, via = value_in(JUNO, month), value_in(VIA, month)
    return f"""
WITH drawn AS (
    SELECT *, {draws(DRAWS, SALT + month_number(month) * 100)} FROM (SELECT range AS j FROM range({rows}))
), moved AS (
    SELECT *,
        -- Never outside the month. The first trips were requested in the month before.
        TIMESTAMP '{month}-01' + to_seconds(least(floor(j / {rows} * {seconds} + jitter * 300)::BIGINT, {seconds} - 1))
            AS pickup,
        CASE
            WHEN company < {LYFT} THEN 'HV0005'
            WHEN company < {LYFT + juno} THEN 'HV0002'
            WHEN company < {LYFT + juno + via} THEN 'HV0004'
            ELSE 'HV0003'
        END AS hvfhs_license_num,
        if(glitch < {NO_MILES}, 0.0, round(0.3 + 4.6 * -ln(1 - distance * 0.9999), 3)) AS miles,
        if(ahead < {REQUESTED_AFTER_PICKUP}, -1 - floor(waiting * 420), 60 + floor(waiting * 700))::BIGINT AS wait_seconds
    FROM drawn
), charged AS (
    SELECT *,
        CASE hvfhs_license_num
            WHEN 'HV0005' THEN 'B03406' WHEN 'HV0002' THEN 'B02914' WHEN 'HV0004' THEN 'B02800' ELSE 'B03404'
        END AS dispatching_base_num,
        (120 + floor(duration * 600 + miles * 160))::BIGINT AS trip_seconds,
        pickup >= TIMESTAMP '{summer_ends}' AND pickup < TIMESTAMP '{summer_ends}' + INTERVAL 1 HOUR
            AND clock < {BACKWARDS_IN_LAST_SUMMER_HOUR} AS backwards,
        if(extras > {1 - NEGATIVE_FARE}, -1, 1) * cents(6.0 + miles * 3.4 + fare * 12.0) AS fare_amount,
        if(toll < 0.13, 6.94, 0.0)::DOUBLE AS tolls,
        if(extras < 0.47, 2.75, if(extras < 0.49, 0.75, 0.0))::DOUBLE AS congestion_surcharge,
        {"if(toll > 0.92, 2.5, 0.0)" if year >= 2021 else "NULL"}::DOUBLE AS airport_fee,
        if(extras < 0.3, 1.5, 0.0)::DOUBLE AS cbd_congestion_fee
    FROM moved
), ridden AS (
    SELECT *, cents((fare_amount + tolls) * 0.0275) AS bcf, cents((fare_amount + tolls) * 0.08875) AS sales_tax
    FROM charged
)"""
